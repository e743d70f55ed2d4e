"""The real Odoo 19 on PostgreSQL 18, directly and behind the pooler: `make odoo`."""
