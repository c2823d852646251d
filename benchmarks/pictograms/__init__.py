"""Pictograms of vendors that the embedded model never saw, and how their sets were made."""
