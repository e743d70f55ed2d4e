"""Certificates that have expired, or soon will, and authorities that are missing.

The one hard idea: TLS is set up with an expired certificate without a word, and each
client finds out by itself. Python tells the dates of a peer's certificate only; those
of a file are read here, from as much of its ASN.1 as it takes (RFC 5280, section 4.1).
"""

import re
import time
from binascii import Error as Base64Error
from binascii import a2b_base64
from calendar import timegm
from collections.abc import Iterator
from typing import Final, NamedTuple

from bouncer.auth.tls import VERIFYING
from bouncer.check.advice import about
from bouncer.check.findings import Finding
from bouncer.check.reading import Reading
from bouncer.config.ini import read_file
from bouncer.config.settings import Settings

DAY: Final = 86400
HOUR: Final = 3600
# So long before its end a certificate is worth a word.
SOON: Final = 30 * DAY

BLOCK: Final = re.compile(
    r"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----(.*?)-----END", re.DOTALL
)
SEQUENCE, INTEGER, VERSION, UTC_TIME, FULL_TIME = 0x30, 0x02, 0xA0, 0x17, 0x18


class Term(NamedTuple):
    """From when until when a certificate is good, in seconds since 1970."""

    begin: int
    end: int


class Element(NamedTuple):
    """One element of ASN.1: its tag, and where its value begins and ends."""

    tag: int
    begin: int
    end: int


def certificates(reading: Reading) -> Iterator[Finding]:
    """Every rule about certificates."""
    yield from files(reading)
    yield from missing(reading)


# Dates


def element(data: bytes, at: int, tag: int) -> Element:
    """Return the element at *at*, which must have *tag*; raises `ValueError`."""
    head = data[at : at + 2]
    if len(head) < 2 or head[0] != tag:
        raise ValueError("this is no certificate")
    begin, length = at + 2, head[1]
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(data[begin : begin + count], "big")
        begin += count
    if begin + length > len(data):
        raise ValueError("a certificate is cut off")
    return Element(tag, begin, begin + length)


def moment(data: bytes, at: int) -> tuple[int, int]:
    """Return the time at *at*, and where it ends; raises `ValueError`."""
    tag = data[at] if at < len(data) and data[at] == FULL_TIME else UTC_TIME
    found = element(data, at, tag)
    text = data[found.begin : found.end].decode("ascii")
    if tag == UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return timegm(time.strptime(text, "%Y%m%d%H%M%SZ")), found.end


def term_of(data: bytes) -> Term:
    """Return the dates of a certificate in DER; raises `ValueError`."""
    at = element(data, element(data, 0, SEQUENCE).begin, SEQUENCE).begin
    if data[at : at + 1] == bytes([VERSION]):
        at = element(data, at, VERSION).end
    at = element(data, at, INTEGER).end  # serial number
    at = element(data, at, SEQUENCE).end  # algorithm
    at = element(data, at, SEQUENCE).end  # issuer
    begin, at = moment(data, element(data, at, SEQUENCE).begin)
    end, _ = moment(data, at)
    return Term(begin, end)


def terms_in(path: str) -> list[Term]:
    """Return the dates of every certificate in a PEM file that can be read."""
    try:
        text = read_file(path)
    except OSError:
        return []
    found = []
    for block in BLOCK.findall(text):
        try:
            found.append(term_of(a2b_base64(block)))
        except (Base64Error, ValueError, OverflowError):
            # Whether OpenSSL takes it is told elsewhere.
            continue
    return found


def now() -> float:
    """Return the time of day, for a test to change."""
    return time.time()


def date(moment: float) -> str:
    """Return the day of *moment* for a text."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


def length(seconds: float) -> str:
    """Return how long *seconds* are, for a text."""
    count, unit = (int(seconds // DAY), "day")
    if not count:
        count, unit = int(seconds // HOUR), "hour"
    return f"{count} {unit}{'' if count == 1 else 's'}"


def doubt(term: Term) -> str:
    """Say what is wrong with the dates of a certificate, or soon will be."""
    left = term.end - now()
    if left <= 0:
        return f"expired {length(-left)} ago, on {date(term.end)}"
    if term.begin > now():
        return f"is not valid before {date(term.begin)}"
    if left <= SOON:
        return f"expires in {length(left)}, on {date(term.end)}"
    return ""


# Files


def files(reading: Reading) -> Iterator[Finding]:
    """Certificates and authorities that are in use."""
    s = reading.config.settings
    if s.client_tls_sslmode != "disable":
        hint = "clients that verify it refuse it"
        yield from chain(reading, "client_tls_cert_file", hint)
        hint = "no certificate of a client is accepted then"
        yield from authorities(reading, "client_tls_ca_file", hint)
    if s.server_tls_sslmode != "disable":
        hint = "servers refuse it"
        yield from chain(reading, "server_tls_cert_file", hint)
    if s.server_tls_sslmode in VERIFYING:
        hint = "no server can be reached then"
        yield from authorities(reading, "server_tls_ca_file", hint)


def chain(reading: Reading, name: str, hint: str) -> Iterator[Finding]:
    """A file with our own certificate and those that lead to its authority."""
    terms = terms_in(getattr(reading.config.settings, name))
    for number, term in enumerate(terms, 1):
        if said := doubt(term):
            which = "its certificate" if number == 1 else f"certificate {number} in it"
            yield about(reading, name, f"{which} {said}", hint)


def authorities(reading: Reading, name: str, hint: str) -> Iterator[Finding]:
    """A file with authorities: as long as one is good, an old one may stay."""
    terms = terms_in(getattr(reading.config.settings, name))
    doubts = [doubt(term) for term in terms]
    if terms and all(doubts):
        last = doubts[terms.index(max(terms, key=lambda term: term.end))]
        which = (
            "its authority" if len(terms) == 1 else "every authority in it, the last"
        )
        yield about(reading, name, f"{which} {last}", hint)


# What is missing


def missing(reading: Reading) -> Iterator[Finding]:
    """Authorities without which a certificate says nothing, halves of a pair."""
    s = reading.config.settings
    if s.client_tls_sslmode == "verify-ca" and not s.client_tls_ca_file:
        text = "no client_tls_ca_file: a certificate of any public authority will do"
        yield about(reading, "client_tls_sslmode", text)
    yield from idle(reading, s)
    for name, other in (
        ("server_tls_key_file", "server_tls_cert_file"),
        ("server_tls_cert_file", "server_tls_key_file"),
    ):
        if getattr(s, name) and not getattr(s, other):
            yield about(reading, name, f"no effect without {other}")


def idle(reading: Reading, settings: Settings) -> Iterator[Finding]:
    """Files that TLS would need, if it were not off."""
    for side in ("client", "server"):
        if getattr(settings, f"{side}_tls_sslmode") != "disable":
            continue
        for kind in ("key", "cert", "ca"):
            name = f"{side}_tls_{kind}_file"
            if getattr(settings, name):
                yield about(
                    reading, name, f"no effect with {side}_tls_sslmode = disable"
                )
