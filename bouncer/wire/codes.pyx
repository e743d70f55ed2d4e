"""Message, startup and copy codes; the declarations stand in codes.pxd."""
