"""The facts of a log line as the fields of a JSON object (log_format = json).

The one hard idea: most lines are PgBouncer's texts, whose facts must be read back out
of them; what is ours comes with its facts (`log.detail`).
"""

from __future__ import annotations

from collections.abc import Mapping
from json import dumps

# Characters of one fact: what a server or a library says may be of any length.
LONGEST_FACT = 2047


def json_line(
    fields: dict[str, object], text: str, event: str, facts: Mapping[str, object] | None
) -> str:
    """Return the line; *fields* are what every line has.

    *event* and *facts* are those of a detail, else they are taken from *text*.
    """
    message = text.replace("\n\t", "\n")
    message = prefix_fields(message, fields)
    fields["message"] = message
    if facts is None:
        event_fields(message, fields)
        return dumps(fields) + "\n"
    fields["event"] = event
    for name, value in facts.items():
        fields[name] = value[:LONGEST_FACT] if isinstance(value, str) else value
    return dumps(fields) + "\n"


def prefix_fields(text: str, fields: dict[str, object]) -> str:
    """Put the socket prefix of *text* into *fields*; return the rest.

    The address is what follows the first "@" that has, before the next blank, no
    other "@" but a port at its end. Names may hold any of these characters: no
    rule can be right for all of them.
    """
    if not text.startswith(("C-0x", "S-0x")):
        return text
    connection, colon, rest = text.partition(": ")
    if not colon:
        return text
    at = rest.find("@")
    while at >= 0:
        address, _, message = rest[at + 1 :].partition(" ")
        host, colon, port = address.rpartition(":")
        if colon and host and "@" not in host and port.isdigit():
            break
        at = rest.find("@", at + 1)
    else:
        return text
    owner = rest[:at]
    fields["connection"] = connection
    fields["side"] = "client" if text[0] == "C" else "server"
    if owner.startswith("peer-"):
        fields["peer"] = owner[5:]
    else:
        database, _, user = owner.partition("/")
        fields["database"] = None if database == "(nodb)" else database
        fields["user"] = None if user == "(nouser)" else user
    fields["address"] = address
    return message


def event_fields(message: str, fields: dict[str, object]) -> None:
    """Name what happened, for the lines that dashboards are made of."""
    if message.startswith("closing because: "):
        reason, _, age = message[17:].rpartition(" (age=")
        fields["event"] = "disconnect"
        fields["reason"] = reason
        if age[:-2].isdigit():
            fields["age"] = int(age[:-2])
    elif message.startswith("login attempt: "):
        fields["event"] = "login"
        tls = message.rpartition(" tls=")[2].partition(" ")[0]
        fields["tls"] = None if tls == "no" else tls
        fields["replication"] = message.rpartition(" replication=")[2]
    elif message.startswith("new connection to server"):
        fields["event"] = "connect"
    elif message.startswith("pooler error: "):
        fields["event"] = "error"
        fields["reason"] = message[14:]
    elif message.startswith("stats: "):
        fields["event"] = "stats"
        fields.update(stats_fields(message[7:]))


def stats_fields(text: str) -> dict[str, object]:
    """Return the numbers of the stats line: "xacts_per_s", "in_bytes_per_s", ..."""
    fields: dict[str, object] = {}
    for part in text.split(", "):
        words = part.split(" ")
        if words[-1] == "us":  # xact 482 us
            name, number = f"{words[0]}_us", words[1]
        elif words[-1] == "B/s":  # in 14 B/s
            name, number = f"{words[0]}_bytes_per_s", words[1]
        else:  # 0 client parses/s
            name, number = "_".join(words[1:]).replace("/s", "_per_s"), words[0]
        if number.isdigit():
            fields[name] = int(number)
    return fields
