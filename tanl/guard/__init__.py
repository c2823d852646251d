"""A backbone, labels and a detector as one: images in, verdicts out."""
