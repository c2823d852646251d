"""ID and negative labels: words, their embeddings, and what is nearest to what."""
