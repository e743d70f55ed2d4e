"""The data plane: sockets, clients, servers, pools. Compiled; asks Python only when it cannot decide."""
