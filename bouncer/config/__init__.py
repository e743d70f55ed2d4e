"""Reads pgbouncer.ini, userlist.txt, HBA and ident files as the original does."""
