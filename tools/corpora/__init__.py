"""What made the word lists."""
