# cython: language_level=3, nonecheck=True
"""What a connection is in the middle of, carried from one of our processes to the next.

For an online restart: both sides are suspended, so no message is half read and
nothing waits to be sent. What is left is what the client and the server have been
told: prepared statements, requests that still await their answer, the transaction.
Values are plain, so that they go through JSON; bytes are latin-1 text there.

The one hard idea: `client_fields` and `server_fields` are the table of what is handed
over. A line there names a field once, takes the value that the field has and gives the
one that it gets, and says what an absent one means (an older process of ours does not
tell all). A `Telling` decides which way: read off, it notes the value and gives it
back; put in, it gives what was told, which it has looked at: whoever listens on the old
process's socket is not believed further than that. So nothing can be told and not
heard, or stand in two places.

The clock is the machine's monotonic one, the same for both processes.
"""

from libc.stdint cimport uint32_t

from bouncer.relay.client cimport MOST_RESETTING, Client
from bouncer.relay.intent cimport LOOKED_AT
from bouncer.relay.ledger cimport (
    COPY_FAILED, NO_ERROR, ONE_MESSAGE, TO_SYNC, Ledger, is_goal, next_note, notes_made)
from bouncer.relay.server cimport LEARN, LEARN_RESET, MOST_OWED, PORTALS, Server
from bouncer.relay.statements cimport NameTable, Pending, Prepared, PreparedSet
from bouncer.relay.stream cimport Stream
from bouncer.relay.texts cimport Statement, drop_unused, numbered, statement_for
from bouncer.wire.codes cimport FE_CLOSE, FE_PARSE
from bouncer.wire.framer cimport buf_size

cdef object REQUIRED = object()     # absent: not understood
cdef object LONGEST = 2 ** 63 - 1   # of a clock, a number of anything
cdef int REPLICATIONS = 2           # none, logical, physical
cdef int ACTIONS = 3                # ledger.Action
# A pipeline's last messages may go beyond what makes its client wait.
cdef int MOST_TOLD = 4 * MOST_OWED


class Telling:
    """The fields of one connection on their way, in one direction.

    *values* are by name; *putting* says that they go into a connection, not off one.
    """

    def __init__(self, values=None):
        self.putting = values is not None
        if self.putting and type(values) is not dict:
            raise ValueError("state: not an object")
        self.values = values if self.putting else {}

    def field(self, name, present, absent):
        """The value of *name*: as it is, or as it was told; ValueError: not told."""
        if not self.putting:
            self.values[name] = present
            return present
        found = self.values.get(name, absent)
        if found is REQUIRED:
            raise ValueError(f"{name}: missing")
        return found

    def flag(self, name, present, absent=REQUIRED):
        value = self.field(name, bool(present), absent)
        if type(value) is not bool:
            raise ValueError(f"{name}: no flag")
        return value

    def number(self, name, present, absent=REQUIRED, most=LONGEST):
        return whole(name, self.field(name, present, absent), most)

    def text(self, name, present, absent=REQUIRED):
        """A str or None."""
        value = self.field(name, present, absent)
        if value is not None and type(value) is not str:
            raise ValueError(f"{name}: no text")
        return value

    def entries(self, name, present, absent=REQUIRED):
        """A list whose entries are looked at by who asked for it."""
        value = self.field(name, present, absent)
        if type(value) is not list:
            raise ValueError(f"{name}: no list")
        return value


cdef object whole(str name, value, most=LONGEST):
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name}: no number up to {most}")
    return value


cdef tuple parts(str name, entry, int count):
    """The *count* parts of one entry of a list."""
    if type(entry) not in (list, tuple) or len(entry) != count:
        raise ValueError(f"{name}: not of {count} parts")
    return tuple(entry)


cdef str text_of(bytes raw):
    return None if raw is None else raw.decode("latin-1")


cdef bytes bytes_of(text):
    """Bytes that were told as text; ValueError (of UnicodeError) when it is none."""
    if type(text) is not str:
        raise ValueError("no text where bytes are due")
    return text.encode("latin-1")


cdef bytes name_of(text):
    """A name that goes into a message: its end must not stand in it."""
    raw = bytes_of(text)
    if b"\0" in raw:
        raise ValueError("a name with a zero byte")
    return raw


# The table


cdef int client_fields(Client client, told) except -1:
    """What only the relay knows of *client*."""
    client.id = told.number("id", client.id, client.id)
    client.connected_at = told.number("connected_at", client.connected_at)
    client.received_at = told.number(
        "received_at", client.received_at, client.received_at)
    client.query_start = told.number("query_start", client.query_start)
    client.transaction_start = told.number(
        "transaction_start", client.transaction_start)
    client.replication = told.number(
        "replication", client.replication, most=REPLICATIONS)
    client.startup_options = told.text(
        "startup_options", client.startup_options, client.startup_options)
    parse = told.text("unnamed_parse", text_of(unnamed_of(client)), None)
    client.unnamed = told.number("unnamed", client.unnamed, 0)
    if told.putting:
        put_unnamed(client, parse)
    put_resetting(client, told.entries("resetting", resetting_of(client), []), told)
    put_names(client, told.entries("names", names_of(client), []), told)
    put_refused(client, told.entries("refused", [], []), told)
    return 0


cdef int server_fields(Server server, told) except -1:
    """What only the relay knows of *server*."""
    server.id = told.number("id", server.id, server.id)
    server.connected_at = told.number("connected_at", server.connected_at)
    server.received_at = told.number(
        "received_at", server.received_at, server.received_at)
    server.idle_since = told.number("idle_since", server.idle_since)
    server.status = told.number("status", server.status, most=255)
    server.dirty = told.flag("dirty", server.dirty, False)
    server.evicting = told.number("evicting", server.evicting)
    server.fatal = told.flag("fatal", server.fatal, False)
    # An older process of ours does not tell these two: take the careful side.
    server.doubting = told.flag("doubting", server.doubting, True)
    unnamed_fields(server, told)
    server.replication = told.number(
        "replication", server.replication, most=REPLICATIONS)
    server.close_needed = told.flag("close_needed", server.close_needed)
    minded_fields(server, told)
    put_prepared(server, told.entries("prepared", prepared_of(server)), told)
    put_owed(server, told.entries("owed", owed_of(server)), told)
    put_lent(server, told.entries("lent", lent_of(server), []), told)
    return ledger_fields(server.ledger, told)


cdef int minded_fields(Server server, told) except -1:
    """Why its client's values are minded; that has told of its texts before."""
    cdef int minds = 0
    if told.flag("learn_due", server.minds & LEARN, False):
        minds |= LEARN
    if told.flag("learn_reset", server.minds & LEARN_RESET, False):
        minds |= LEARN_RESET
    if server.client is not None and server.client.resetting is not None:
        minds |= PORTALS
    if told.putting:
        server.minds = minds
    return 0


cdef int unnamed_fields(Server server, told) except -1:
    """Whose unnamed statement *server* has; its client has told its own before."""
    cdef Client client = server.client
    cdef bint own = client is not None and client.unnamed == server.unnamed
    own = told.flag("own_unnamed", own and server.unnamed, client is not None)
    server.unnamed = told.number("unnamed", server.unnamed, 0)
    if not told.putting:
        return 0
    if not own:
        # Which client's it is: none of those that are carried, as far as we know.
        server.unnamed = next_note()
    elif client is None:
        raise ValueError("own_unnamed: of no client")
    else:
        if client.unnamed == 0:     # an older process of ours has not told it
            client.unnamed = next_note()
        server.unnamed = client.unnamed
    return 0


cdef int ledger_fields(Ledger ledger, told) except -1:
    """How things stand with what *ledger* has; behind its entries."""
    ledger.ready = told.flag("ready", ledger.ready)
    ledger.spoke = told.flag("spoke", ledger.spoke)
    ledger.unsure = told.flag("unsure", ledger.unsure)
    ledger.probed = told.flag("probed", ledger.probed)
    ledger.copy = told.number("copy", ledger.copy, most=COPY_FAILED)
    ledger.group = told.number("group", ledger.group)
    ledger.late_closes = told.number(
        "late_closes", ledger.late_closes, 0, most=MOST_TOLD)
    # An older process of ours does not tell how far an error reaches.
    failed = told.flag("in_error", ledger.reach != NO_ERROR)
    absent = NO_ERROR
    if failed:
        absent = ONE_MESSAGE
        if ledger.count and not is_goal(ledger.at(0).kind):
            absent = TO_SYNC
    ledger.reach = told.number("reach", ledger.reach, absent, most=TO_SYNC)
    ledger.unsynced = told.flag("unsynced", ledger.unsynced, False)
    ledger.mixed = told.flag("mixed", ledger.mixed, False)
    return 0


# Lists: how each entry is told, and taken


cdef tuple described(Statement statement):
    return None if statement is None else (
        statement.number, text_of(statement.key), text_of(statement.scope))


cdef bytes unnamed_of(Client client):
    if buf_size(&client.unnamed_parse) == 0:
        return None
    return client.unnamed_parse.data[:client.unnamed_parse.end]


cdef int put_unnamed(Client client, parse) except -1:
    """A Parse as it is sent: it must be one, and without a name."""
    cdef bytes raw
    if client.unnamed:
        client.unnamed = next_note()    # of ours, so that it is nobody else's
    if parse is None:
        return 0
    raw = bytes_of(parse)
    if (not client.unnamed or raw[:1] != b"P" or raw[5:6] != b"\0"
            or int.from_bytes(raw[1:5], "big") != len(raw) - 1):
        raise ValueError("unnamed_parse: no Parse")
    check_parse(raw[6:])
    client.keep_unnamed(<const char*>raw, len(raw))
    return 0


cdef list resetting_of(Client client):
    if client.resetting is None:
        return []
    return [(text_of(name), text_of(text)) for name, text in client.resetting.items()]


cdef int put_resetting(Client client, list entries, told) except -1:
    if not told.putting:
        return 0
    for entry in entries:
        name, text = parts("resetting", entry, 2)
        if client.resetting is None:
            client.resetting = {}
        if len(client.resetting) == MOST_RESETTING:
            raise ValueError("resetting: too many")
        client.resetting[name_of(name)] = name_of(text)[:LOOKED_AT]
    return 0


cdef list names_of(Client client):
    if client.names is None:
        return []
    return [(text_of(name), *described(statement))
            for name, statement in client.names.items()]


cdef int put_names(Client client, list entries, told) except -1:
    cdef bytes name
    cdef Statement statement
    if not told.putting:
        return 0
    for entry in entries:
        text, number, key, scope = parts("names", entry, 4)
        name = name_of(text)
        if client.names is None:
            client.names = NameTable()
        if client.names.find(name, len(name)) is not None:
            raise ValueError("names: one stands twice")
        statement = known(number, key, scope)
        client.names.put(name, statement, next_note(), False)
        if statement.resets and client.resetting is None:
            client.resetting = {}
    return 0


cdef int put_refused(Client client, list entries, told) except -1:
    """An older process of ours kept the names of statements that were refused."""
    cdef bytes name
    if not told.putting:
        return 0
    for entry in entries:
        name = name_of(entry)
        if client.names is None or client.names.take_out(name, len(name)) is None:
            raise ValueError("refused: of no name")
    return 0


cdef list prepared_of(Server server):
    cdef Prepared* item
    cdef list found = []
    if server.prepared is not None:
        item = server.prepared.oldest
        while item != NULL:
            found.append((*described(<Statement>item.statement), bool(item.seen),
                          item.group))
            item = item.newer
    return found


cdef int put_prepared(Server server, list entries, told) except -1:
    cdef Statement statement
    if not told.putting:
        return 0
    for entry in entries:
        number, key, scope, seen, group = parts("prepared", entry, 5)
        if type(seen) is not bool:
            raise ValueError("prepared: no flag")
        if server.prepared is None:
            server.prepared = PreparedSet()
        statement = known(number, key, scope)
        if server.prepared.find(statement) != NULL:
            raise ValueError("prepared: one stands twice")
        server.prepared.add(statement, seen, whole("prepared", group), notes_made(),
                            False)
    return 0


cdef list owed_of(Server server):
    cdef Pending pending
    cdef uint32_t i
    cdef list found = []
    for i in range(server.ledger.count):
        entry = server.ledger.at(i)
        note = None
        if entry.note != NULL and isinstance(<object>entry.note, Pending):
            pending = <Pending>entry.note
            if pending.name is None and pending.statement is None:
                found.append((entry.kind, entry.action, None))
                continue        # it only tells us something
            note = (text_of(pending.name), described(pending.statement),
                    bool(pending.seen), pending.group)
        found.append((entry.kind, entry.action, note))
    return found


cdef int put_owed(Server server, list entries, told) except -1:
    if not told.putting:
        return 0
    if len(entries) > MOST_TOLD:
        raise ValueError("owed: too many")
    server.ledger.clear()
    if entries:
        server.forgetting = notes_made()    # a DISCARD ALL may be among them
    for entry in entries:
        kind, action, note = parts("owed", entry, 3)
        kind, action = whole("owed", kind, 255), whole("owed", action, ACTIONS)
        server.ledger.push(kind, action,
                           None if note is None else pending_of(server, kind, note))
    return 0


cdef list lent_of(Server server):
    return [text_of(name) for name in server.lent or ()]


cdef int put_lent(Server server, list entries, told) except -1:
    if told.putting and entries:
        server.lent = [None if name is None else name_of(name) for name in entries]
    return 0


cdef Pending pending_of(Server server, kind, note):
    """What an unanswered request was about; whose tables it needs are there then."""
    cdef Pending pending = Pending.__new__(Pending)
    name, statement, seen, group = parts("owed", note, 4)
    if type(seen) is not bool:
        raise ValueError("owed: no flag")
    if name is not None:
        pending.name = name_of(name)
        if server.client is None:
            raise ValueError("owed: a name of no client")
        if server.client.names is None:
            server.client.names = NameTable()
    if statement is not None:
        number, key, scope = parts("owed", statement, 3)
        pending.statement = known(number, key, scope)
    elif name is None:
        raise ValueError("owed: a Parse of no statement" if kind == FE_PARSE
                         else "owed: a note of nothing")
    if server.prepared is None:
        server.prepared = PreparedSet()
    pending.seen = seen
    pending.group = whole("owed", group)
    pending.made = notes_made()
    pending.number = next_note()
    if kind == FE_CLOSE and pending.name is not None and pending.statement is not None:
        server.client.last_close = pending.number
    renew(server, kind, pending)
    return pending


# For bouncer.carry, which reads off, and bouncer.adopt, which puts in


def client_state(Client client not None):
    told = Telling()
    client_fields(client, told)
    return told.values


def server_state(Server server not None):
    told = Telling()
    server_fields(server, told)
    return told.values


def restore_client(Client client not None, dict state not None):
    """Put what `client_state` has told into a client; ValueError: it makes no sense."""
    client_fields(client, Telling(state))


def restore_server(Server server not None, dict state not None):
    """Put what `server_state` has told into a server; it has its place already."""
    server_fields(server, Telling(state))


# Statements


def statements_of(dict state not None):
    """(number, key, scope) of every statement that *state* speaks of."""
    cdef list found = []
    told = Telling(state)
    for entry in told.entries("names", [], []):
        found.append(parts("names", entry, 4)[1:])
    for entry in told.entries("prepared", [], []):
        found.append(parts("prepared", entry, 5)[:3])
    for entry in told.entries("owed", [], []):
        note = parts("owed", entry, 3)[2]
        if note is not None:
            statement = parts("owed", note, 4)[1]
            if statement is not None:
                found.append(parts("owed", statement, 3))
    return found


cdef dict learnt = {}           # number -> Statement, while a process is taken over


def learn_statements(found):
    """Make statements with the numbers that the servers know them by.

    Once, for all of them, before anything is restored. Two may have one text: what is
    still owed can name a statement that nobody else uses any more.
    """
    cdef dict texts = {}
    for number, key, scope in found:
        text = bytes_of(key), bytes_of(scope)
        if texts.setdefault(whole("statement", number), text) != text:
            raise ValueError("statement: two texts of one number")
    for number in sorted(texts):
        text, where = texts[number]
        check_parse(text)
        learnt[number] = numbered(number, text, where)


cdef int check_parse(bytes key) except -1:
    """A text, a zero byte, a count of types and the types; else ValueError."""
    cdef Py_ssize_t end = key.find(b"\0")
    if end < 0 or len(key) < end + 3:
        raise ValueError("statement: no Parse")
    if len(key) != end + 3 + 4 * int.from_bytes(key[end + 1:end + 3], "big"):
        raise ValueError("statement: no Parse")
    return 0


def statements_learnt():
    """Everything is restored, or never will be: drop what nobody has come to use."""
    for statement in learnt.values():
        drop_unused(statement)
    learnt.clear()


cdef Statement known(number, key, scope):
    cdef bytes text
    found = learnt.get(whole("statement", number))
    if found is None:
        text = bytes_of(key)
        check_parse(text)
        found = statement_for(text, bytes_of(scope), None)
    return found


cdef int renew(Server server, int kind, Pending pending) except -1:
    """What an unanswered Parse has brought is younger than all that was answered."""
    cdef Prepared* item
    cdef Client client = server.client
    if kind != FE_PARSE or pending.statement is None:
        return 0
    if (client is not None and client.names is not None and pending.name is not None
            and client.names.entry_of(pending.name, len(pending.name)) != NULL):
        client.names.put(pending.name, pending.statement, pending.number, False)
    if server.prepared is not None:
        item = server.prepared.find(pending.statement)
        if item != NULL and not item.seen and item.group == pending.group:
            server.prepared.discard(pending.statement)
            server.prepared.add(pending.statement, False, pending.group,
                                pending.number, False)
    return 0


def owes_unknown(Server server not None):
    """Nobody knows what *server* still has to answer: it will be asked.

    See Server.probe: before it is shared, an empty query of ours tells whether an
    answer came that nobody counted. Nor do we know whether its client has parsed the
    unnamed statement: it may have, and would miss it.
    """
    server.ledger.unsure = True
    if server.client is not None:
        server.client.unnamed = server.unnamed = next_note()


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
        if client.departed:
            client.depart(-1)
        client.keep_unnamed(NULL, 0)
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
