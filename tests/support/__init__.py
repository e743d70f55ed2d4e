"""What the tests stand on: processes, PostgreSQL, fake ends, a cutting proxy."""
