"""The console: the virtual `pgbouncer` database."""
