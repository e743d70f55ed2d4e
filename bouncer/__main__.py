"""`python -m bouncer` is `pgbouncer`."""

from bouncer.cli import main

if __name__ == "__main__":
    main()
