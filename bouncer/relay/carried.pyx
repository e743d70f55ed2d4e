# cython: language_level=3
"""What a connection is in the middle of, carried from one of our processes to the next.

For an online restart: both sides are suspended, so no message is half read and
nothing waits to be sent. What is left is what the client and the server have been
told: prepared statements, requests that still await their answer, the transaction.
Values are plain, so that they go through JSON; bytes are latin-1 text there.

The clock is the machine's monotonic one, the same for both processes.
"""

from libc.stdint cimport uint32_t

from bouncer.relay.client cimport Client
from bouncer.relay.outstanding cimport owed_at, owed_push
from bouncer.relay.server cimport Server
from bouncer.relay.statements cimport (
    NameTable, Pending, Prepared, PreparedSet, Statement, drop_unused, numbered,
    statement_for)
from bouncer.relay.stream cimport Stream


cdef str text_of(bytes raw):
    return None if raw is None else raw.decode("latin-1")


cdef bytes bytes_of(text):
    return None if text is None else text.encode("latin-1")


cdef tuple described(Statement statement):
    return None if statement is None else (
        statement.number, text_of(statement.key), text_of(statement.scope))


def client_state(Client client not None):
    """What only the relay knows of *client*."""
    names = [] if client.names is None else client.names.items()
    return {
        "connected_at": client.connected_at,
        "received_at": client.received_at,
        "query_start": client.query_start,
        "transaction_start": client.transaction_start,
        "replication": client.replication,
        "names": [(text_of(name), *described(statement)) for name, statement in names],
        "refused": [] if client.names is None else [
            text_of(name) for name in client.names.refused()],
    }


def server_state(Server server not None):
    """What only the relay knows of *server*."""
    cdef Prepared* item
    cdef Pending pending
    cdef uint32_t i
    prepared = []
    if server.prepared is not None:
        item = server.prepared.oldest
        while item != NULL:
            prepared.append((*described(<Statement>item.statement), bool(item.seen),
                             item.group))
            item = item.newer
    owed = []
    for i in range(server.owed.count):
        entry = owed_at(&server.owed, i)
        note = None
        if entry.note != NULL:
            pending = <Pending>entry.note
            note = (text_of(pending.name), described(pending.statement),
                    bool(pending.seen), pending.group)
        owed.append((entry.kind, entry.action, note))
    return {
        "connected_at": server.connected_at,
        "received_at": server.received_at,
        "idle_since": server.idle_since,
        "ready": bool(server.ready),
        "status": server.status,
        "dirty": bool(server.dirty),
        "spoke": bool(server.spoke),
        "unsure": bool(server.unsure),
        "probed": bool(server.probed),
        "in_error": bool(server.in_error),
        "copy": server.copy,
        "group": server.group,
        "evicting": server.evicting,
        "late_closes": server.late_closes,
        "fatal": bool(server.fatal),
        "doubting": bool(server.doubting),
        "own_unnamed": bool(server.own_unnamed),
        "replication": server.replication,
        "close_needed": bool(server.close_needed),
        "prepared": prepared,
        "owed": owed,
    }


def statements_of(dict state not None):
    """(number, key, scope) of every statement that *state* speaks of."""
    found = [entry[1:4] for entry in state.get("names", ())]
    found += [entry[:3] for entry in state.get("prepared", ())]
    found += [note[1] for _, _, note in state.get("owed", ()) if note and note[1]]
    return found


cdef dict learnt = {}           # number -> Statement, while a process is taken over


def learn_statements(found):
    """Make statements with the numbers that the servers know them by.

    Once, for all of them, before anything is restored. Two may have one text: what is
    still owed can name a statement that nobody else uses any more.
    """
    for number, key, scope in sorted({tuple(one) for one in found}):
        learnt[number] = numbered(number, bytes_of(key), bytes_of(scope))


def statements_learnt():
    """Everything is restored: drop what nobody has come to use."""
    for statement in learnt.values():
        drop_unused(statement)
    learnt.clear()


cdef Statement known(number, key, scope):
    found = learnt.get(number)
    return statement_for(bytes_of(key), bytes_of(scope)) if found is None else found


def restore_client(Client client not None, dict state not None):
    """Put what `client_state` has told into a client."""
    client.connected_at = state["connected_at"]
    client.received_at = state.get("received_at", client.received_at)
    client.query_start = state["query_start"]
    client.transaction_start = state["transaction_start"]
    client.replication = state["replication"]
    for name, number, key, scope in state["names"]:
        if client.names is None:
            client.names = NameTable()
        client.names.put(bytes_of(name), known(number, key, scope))
    for name in state.get("refused", ()):
        client.names.note_failure(bytes_of(name))


def restore_server(Server server not None, dict state not None):
    """Put what `server_state` has told into a server; it has its place already."""
    cdef Pending pending
    server.connected_at = state["connected_at"]
    server.received_at = state.get("received_at", server.received_at)
    server.idle_since = state["idle_since"]
    server.ready = state["ready"]
    server.status = state["status"]
    server.dirty = state.get("dirty", False)
    server.spoke = state["spoke"]
    server.unsure = state["unsure"]
    server.probed = state["probed"]
    server.in_error = state["in_error"]
    server.copy = state["copy"]
    server.group = state["group"]
    server.evicting = state["evicting"]
    server.late_closes = state.get("late_closes", 0)
    server.fatal = state.get("fatal", False)
    # An older process of ours does not tell these two: take the careful side.
    server.doubting = state.get("doubting", True)
    server.own_unnamed = state.get("own_unnamed", server.client is not None)
    server.replication = state["replication"]
    server.close_needed = state["close_needed"]
    for number, key, scope, seen, group in state["prepared"]:
        if server.prepared is None:
            server.prepared = PreparedSet()
        server.prepared.add(known(number, key, scope), seen, group)
    for kind, action, note in state["owed"]:
        pending = None
        if note is not None:
            pending = Pending.__new__(Pending)
            pending.name = bytes_of(note[0])
            if note[1] is not None:
                pending.statement = known(note[1][0], note[1][1], note[1][2])
            pending.seen = note[2]
            pending.group = note[3]
        owed_push(&server.owed, kind, action, pending)


def owes_unknown(Server server not None):
    """Nobody knows what *server* still has to answer: it will be asked.

    See Server.probe: before it is shared, an empty query of ours tells whether an
    answer came that nobody counted. Nor do we know whether its client has parsed the
    unnamed statement: it may have, and would miss it.
    """
    server.unsure = True
    server.own_unnamed = True


def let_go(Stream stream not None):
    """Close our copy of a descriptor that another process has, without a word."""
    cdef Client client
    cdef Server server
    if stream.closed:
        return
    if stream.home is not None:
        stream.home.drop(stream)
    if isinstance(stream, Client):
        client = <Client>stream
        if client.server is not None:
            client.server.client = None
            client.server = None
        client.shut()
        if client.names is not None:
            client.names.clear()
        client.door.gone(client)
    else:
        server = <Server>stream
        if server.client is not None:
            server.client.server = None
            server.client = None
        server.shut()
        server.app.server_gone(server, "")
