"""What is read from files and kept in them; knows no label, model or method."""
