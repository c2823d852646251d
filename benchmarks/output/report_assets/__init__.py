"""What the report's page is made of: its templates, style and script, its charts and its thumbnails."""
