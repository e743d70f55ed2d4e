"""PostgreSQL's wire protocol: codes, framing, rare messages; no sockets, no policy."""
