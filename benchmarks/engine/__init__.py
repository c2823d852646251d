"""Streams, methods and runs: how it is measured, and where the outcome is kept."""
