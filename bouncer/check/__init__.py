"""`pgbouncer --check` and `--explain`: read a configuration without starting it."""
