"""What made the embedded model for photographs."""
