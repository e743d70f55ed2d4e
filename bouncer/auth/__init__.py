"""Secrets and the exchanges that prove them: md5, SCRAM, PAM, LDAP."""
