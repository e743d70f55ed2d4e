"""What a check says about the section [pybouncer]: health ports, networks, names.

Those who use these settings, in `ha`, stand above this package; a test keeps both of
one mind.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from bouncer.check.advice import about
from bouncer.check.findings import ERROR, Finding
from bouncer.check.reading import Reading, source_of

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
            taken[host, port] = name


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
    known = reading.userlist.secrets if reading.userlist is not None else None
    if known is not None and s.health_user and s.health_user not in known:
        text = f'"{s.health_user}" is not in auth_file: nobody can log in as it'
        yield about(reading, "health_user", text)
    for place in words(s.haproxy_sockets):
        is_path = "/" in place or place.startswith(("unix:", "unix@", "abns@"))
        if not is_path and not port_of(place):
            text = f'"{place}" is neither the path of a socket nor host:port'
            yield Finding(
                ERROR, text, *source_of(config, "haproxy_sockets"), "haproxy_sockets"
            )
