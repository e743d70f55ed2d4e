"""Bytes fed to the compiled relay, without a process or a PostgreSQL."""
