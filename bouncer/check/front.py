"""What a check says about the section [pybouncer]: health ports, networks, names.

Those who use these settings, in `ha`, stand above this package; a test keeps both of
one mind.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from bouncer.auth.secrets import SCRAM, kind_of
from bouncer.check.advice import about, about_line
from bouncer.check.findings import ERROR, Finding
from bouncer.check.reading import Reading, source_of
from bouncer.check.spelling import secret_doubt
from bouncer.check.suggest import close
from bouncer.config.own import EVERY
from bouncer.config.settings import Settings

LISTENS: Final = ("health_listen", "agent_listen")
HIGHEST_PORT: Final = 65535
EVERYWHERE: Final = ("", "*", "0.0.0.0", "::")


def words(text: str) -> list[str]:
    """Return the words of a list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def front(reading: Reading) -> Iterator[Finding]:
    """Every rule about the section."""
    yield from listens(reading)
    yield from networks(reading)
    yield from names(reading)
    yield from logins(reading)


def is_watched(settings: Settings) -> bool:
    """Whether anybody may ask for health."""
    return bool(settings.health_listen or settings.agent_listen)


def port_of(place: str) -> int | None:
    """Return the port of `host:port`, None when there is none."""
    _, colon, port = place.rpartition(":")
    if not (colon and port.isascii() and port.isdigit()):
        return None
    return int(port) if int(port) <= HIGHEST_PORT else None


def listens(reading: Reading) -> Iterator[Finding]:
    """Addresses that nobody can listen on, or that somebody else has."""
    s = reading.config.settings
    file_and_line = {name: source_of(reading.config, name) for name in LISTENS}
    taken = {
        (host, s.listen_port): "listen_port"
        for host in words(s.listen_addr)
        if s.listen_port
    }
    for name in LISTENS:
        for place in words(getattr(s, name)):
            if place.startswith("/"):
                continue
            port = port_of(place)
            if port is None:
                text = f'"{place}" is neither host:port nor the path of a socket'
                yield Finding(ERROR, text, *file_and_line[name], name)
                continue
            host = place.rpartition(":")[0].strip("[]")
            for (other, number), what in taken.items():
                same = host == other or host in EVERYWHERE or other in EVERYWHERE
                if port and number == port and same:
                    text = f'"{place}" is the place of {what}'
                    yield Finding(ERROR, text, *file_and_line[name], name)
                    break
            else:
                yield from unguarded(reading, name, place, host)
            taken[host, port] = name


def unguarded(reading: Reading, name: str, place: str, host: str) -> Iterator[Finding]:
    """A place that is open to the world, where nobody is asked for a password."""
    if is_everybodys(host):
        text = f'"{place}" answers everybody who can reach it, without a password'
        yield about(reading, name, text, "an address in a network that you own")


def is_everybodys(host: str) -> bool:
    """Whether *host* is every address of this machine, or one of the world's."""
    if host in EVERYWHERE:
        return True
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def logins(reading: Reading) -> Iterator[Finding]:
    """Those whom health checks log in as, and who cannot.

    A SCRAM secret opens nothing by itself: only a client that has shown its password
    lends us the keys, and a check comes before the first client.
    """
    config, s = reading.config, reading.config.settings
    known = reading.userlist.secrets if reading.userlist is not None else {}
    hint = "health checks know nothing of the database then: give the password itself"
    why = cannot_log_in(reading, s.health_user) if s.health_user else ""
    if why:
        yield about(reading, "health_user", why, hint if "secret" in why else "")
    for database in config.databases.values() if is_watched(s) else ():
        if database.user is not None:
            if kind_of(database.password or "") == SCRAM:
                text = f'the SCRAM secret of the forced user "{database.user}" cannot '
                text += "log it in before its first client"
                yield about_line(database.source, database.name, text, hint)
        elif (
            database.auth_user
            and not s.health_user
            and kind_of(known.get(database.auth_user, "")) == SCRAM
        ):
            text = f'the SCRAM secret of auth_user "{database.auth_user}" cannot log '
            yield about_line(database.source, database.name, f"{text}it in", hint)


def cannot_log_in(reading: Reading, name: str) -> str:
    """Say why nobody can log in to a server as the user *name*, or nothing."""
    s = reading.config.settings
    if reading.userlist is None:
        if s.auth_file is None:
            return f'there is no auth_file, and so no password for "{name}"'
        return ""
    secret = reading.userlist.secrets.get(name)
    if secret is None:
        return f'"{name}" is not in auth_file: nobody can log in as it'
    if not secret:
        return f'the secret of "{name}" is empty'
    if doubt := secret_doubt(secret):
        return f'the secret of "{name}" cannot log it in: {doubt}'
    if kind_of(secret) == SCRAM:
        return f'the SCRAM secret of "{name}" cannot log it in'
    return ""


def networks(reading: Reading) -> Iterator[Finding]:
    """Networks that are none: then nobody at all is believed."""
    s = reading.config.settings
    for word in re.split(r"[\s,]+", s.proxy_protocol_networks.strip()):
        if not word or word == "unix":
            continue
        try:
            network = ipaddress.ip_network(word)
        except ValueError as error:
            text = f"{error}: while it stands there, no PROXY header is accepted"
            yield about(reading, "proxy_protocol_networks", text, repaired(word))
            continue
        if network.prefixlen == 0:
            text = f"{word} is everybody: who can connect can claim any address"
            hint = "name the balancers"
            yield about(reading, "proxy_protocol_networks", text, hint)
    if s.proxy_protocol_send > 2:
        yield about(reading, "proxy_protocol_send", "there are versions 1 and 2")


def repaired(word: str) -> str:
    """Return the network that was meant, if only its host bits are wrong."""
    try:
        return f"perhaps {ipaddress.ip_network(word, strict=False)}"
    except ValueError:
        return ""


def names(reading: Reading) -> Iterator[Finding]:
    """Databases and users that are nowhere."""
    config, s = reading.config, reading.config.settings
    for name in words(s.health_databases):
        if name not in config.databases and config.autodb is None:
            yield about(reading, "health_databases", f'there is no database "{name}"')
    for own in config.own.databases.values():
        known = own.name in config.databases or own.name == EVERY
        if not known and config.autodb is None:
            text = f'there is no database "{own.name}", so this line does nothing'
            hint = close(own.name, config.databases)
            yield about_line(own.source, own.name, text, hint)
    for place in words(s.haproxy_sockets):
        is_path = "/" in place or place.startswith(("unix:", "unix@", "abns@"))
        if not is_path and not port_of(place):
            text = f'"{place}" is neither the path of a socket nor host:port'
            yield Finding(
                ERROR, text, *source_of(config, "haproxy_sockets"), "haproxy_sockets"
            )
