"""The PostgreSQL wire protocol: codes, framing, rare messages. No sockets, no policy."""
