"""A results file as one HTML page: what was flagged, why, and what another threshold would do."""
