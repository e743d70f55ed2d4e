# cython: language_level=3, nonecheck=True
"""Message, startup and copy codes; the declarations stand in codes.pxd."""
