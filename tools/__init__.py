"""Studies of the library's own costs, and what remakes its data: run from the repository, never installed."""
