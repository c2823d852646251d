"""What a user asks after "is it OOD?": what sets the flagged apart, which to label, whether an answer holds.

Each file is one question and one published idea, made anew on the embeddings, corpora and detectors that are here.
docs/beyond.md has a table of them: what was checked, and what was not.
"""
