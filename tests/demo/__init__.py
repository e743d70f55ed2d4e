"""`make demo`: what a connection pooler is for, seen in half a minute."""
