"""The `tanl` command: one module a sub-command."""
