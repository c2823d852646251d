"""Splits and their images: what is measured on."""
