"""Images or embeddings, batch by batch, through a backbone and a detector."""
