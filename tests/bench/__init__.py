"""`make bench`: us beside the real PgBouncer, in one run on one machine."""
