"""Reads pgbouncer.ini, userlist.txt, HBA and ident files exactly as the original does."""
