"""Policy in plain Python: what to open, what to close, who may come in."""
