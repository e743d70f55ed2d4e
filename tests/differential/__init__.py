"""Random conversations, played on PostgreSQL and through us, and compared."""
