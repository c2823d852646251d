"""Photographs that ship with tanl, and the tracks of the split ``photographs``: what animals are, and what else."""
