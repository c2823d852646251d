"""What made the embedded model."""
