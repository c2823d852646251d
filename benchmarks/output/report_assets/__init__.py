"""What the report's page is made of: charts, thumbnails, and its style."""
