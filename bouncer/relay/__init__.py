"""The data plane: sockets, clients, servers, pools; compiled.

It asks Python only when it cannot decide by itself.
"""
