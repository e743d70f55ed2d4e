"""What hostile clients and servers cost everybody else; see __main__.py."""
