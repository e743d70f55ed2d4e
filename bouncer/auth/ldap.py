"""Check a password with an LDAP server: simple bind, or search and bind.

libldap does the talking, reached with ctypes, as it does for PgBouncer and
PostgreSQL: certificates, ldap.conf and error texts are those that administrators
know. It blocks, so it runs in a few threads. Options are read anew for each login,
which is when their errors show.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any
from urllib.parse import unquote

from bouncer import log
from bouncer.auth.secrets import MAX_SECRET
from bouncer.config.masking import HIDDEN, without_secrets
from bouncer.errors import BouncerError
from bouncer.wire.messages import encode_text

WORKERS = 4
LONGEST_OPTIONS = 1024
NETWORK_TIMEOUT = 3  # seconds for a connection
ANSWER_TIMEOUT = 30  # seconds for one answer; PgBouncer waits for ever
PORTS = {"ldap": 389, "ldaps": 636}
# These have a meaning in a filter or a DN.
FORBIDDEN = frozenset("*()\\/")

# ldap.h
LDAP_SUCCESS = 0
LDAP_OPT_PROTOCOL_VERSION = 0x0011
LDAP_OPT_TIMEOUT = 0x5002
LDAP_OPT_NETWORK_TIMEOUT = 0x5005
LDAP_VERSION3 = 3
SCOPES = {
    "base": 0,
    "one": 1,
    "onelevel": 1,
    "sub": 2,
    "subtree": 2,
    "children": 3,
    "subordinate": 3,
}
SCOPE_NAMES = ("base", "one", "sub", "children")
SUBTREE = 2
BETWEEN = " \t\r\n,"
NO_ATTRIBUTES = b"1.1"


class LdapError(BouncerError):
    """The login is refused; *lines* are WARNINGs for the log."""

    def __init__(self, *lines: str) -> None:
        super().__init__(lines[0])
        self.lines = lines


# Options


class Options:
    """What `auth_ldap_options` or an HBA line says."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.server = ""
        self.port = 0
        self.scheme = "ldap"
        self.tls = False
        self.prefix: str | None = None
        self.suffix: str | None = None
        self.base_dn: str | None = None
        self.bind_dn: str | None = None
        self.bind_password: str | None = None
        self.search_attribute: str | None = None
        self.search_filter: str | None = None
        self.scope = SUBTREE
        if len(encode_text(text)) > LONGEST_OPTIONS:
            raise LdapError(
                f"The LDAP options are longer than MAX_LDAP_CONFIG: {LONGEST_OPTIONS}"
            )
        for key, value in pairs(text):
            self.take(key, value)
        self.check()

    def take(self, key: str, value: str) -> None:
        """Take one option.

        Each sets the scope back, as in PostgreSQL: only a URL that stands last has
        its own.
        """
        self.scope = SUBTREE
        if key == "ldapserver":
            self.server = value
        elif key == "ldapport":
            self.port = int(value) if value.isdecimal() else 0
            if not 0 < self.port < 65536:
                raise LdapError(f'invalid LDAP port number: "{value}"')
        elif key == "ldapscheme":
            if value not in PORTS:
                raise LdapError(f'invalid ldapscheme value: "{value}"')
            self.scheme = value
        elif key == "ldaptls":
            self.tls = value == "1"
        elif key == "ldapurl":
            self.take_url(value)
        elif key in NAMES:
            setattr(self, NAMES[key], value)
        else:
            # A word without its sign may be the rest of a password with blanks in it.
            is_whole = f"{key}=" in self.text or key.startswith("ldap")
            shown = key if is_whole else HIDDEN
            raise LdapError(f'invalid LDAP option: "{shown}"')

    def take_url(self, text: str) -> None:
        """Take ldap://host:port/base?attributes?scope?filter (RFC 4516).

        What it does not have stays as it was; of the attributes the first counts.
        Without a slash there is no base, and nothing behind it.
        """
        scheme, _, rest = text.partition("://")
        if scheme.lower() not in PORTS:
            raise LdapError(f"unsupported LDAP URL scheme: {scheme}")
        place, slash, behind = rest.partition("/")
        place = place.partition("?")[0]
        fields = [unquote(field) for field in behind.split("?")] + [""] * 3
        try:
            host, port = place_of(place)
            scope = SCOPES[fields[2].lower() or "base"]
        except (ValueError, KeyError) as error:
            shown = without_secrets(text)
            reason = f": {error}" if shown == text else ""
            raise LdapError(f'could not parse LDAP URL "{shown}"{reason}') from None
        self.scheme = scheme.lower()
        self.server, self.port, self.scope = host, port, scope
        if slash:
            self.base_dn = fields[0]
            attribute = fields[1].partition(",")[0]
            self.search_attribute = attribute or self.search_attribute
            self.search_filter = fields[3] or self.search_filter

    def check(self) -> None:
        """Refuse what does not go together."""
        simple = self.prefix is not None or self.suffix is not None
        if simple and (
            self.base_dn is not None
            or self.bind_dn is not None
            or self.bind_password is not None
            or self.search_attribute is not None
            or self.search_filter is not None
        ):
            raise LdapError("cannot mix options for simple bind and search+bind modes")
        if not simple and self.base_dn is None:
            raise LdapError(
                'authentication method "ldap" requires argument "ldapbasedn", '
                '"ldapprefix", or "ldapsuffix" to be set'
            )
        if self.search_attribute is not None and self.search_filter is not None:
            raise LdapError(
                "cannot use ldapsearchattribute together with ldapsearchfilter"
            )
        if not self.server and not self.base_dn:
            raise LdapError("LDAP server not specified, and no ldapbasedn")

    def where(self) -> str:
        """Tell where was searched, for a log line."""
        scope = SCOPE_NAMES[self.scope]
        return f'LDAP search was for base "{self.base_dn or ""}", scope {scope}'

    def filter_for(self, user: str) -> str:
        """Give the filter that finds *user*."""
        if self.search_filter is not None:
            return self.search_filter.replace("$username", user)
        return f"({self.search_attribute or 'uid'}={user})"


def place_of(text: str) -> tuple[str, int]:
    """Take `host:port` of a URL apart, port 0 where it has none; raises ValueError."""
    host, port = text, ""
    if not text.endswith("]"):
        host, _, port = text.rpartition(":") if ":" in text else (text, "", "")
    if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ValueError(f"no port: {port}")
    if any(char.isspace() for char in host):
        raise ValueError("blanks in the host")
    return unquote(host), int(port or 0)


# Options that are kept as they are, and where.
NAMES = {
    "ldapprefix": "prefix",
    "ldapsuffix": "suffix",
    "ldapbasedn": "base_dn",
    "ldapbinddn": "bind_dn",
    "ldapbindpasswd": "bind_password",
    "ldapsearchattribute": "search_attribute",
    "ldapsearchfilter": "search_filter",
}


def pairs(text: str) -> list[tuple[str, str]]:
    """Split `key=value key="va""lue" "key=value", … # comment`.

    Words without `=` count for nothing at the end, as PgBouncer has it. Before an
    option they may be the rest of a value that lacks its quotes.
    """
    found = []
    stray = ""
    for word in words(text):
        key, equals, value = word.partition("=")
        if equals and stray:
            shown = stray if stray.startswith("ldap") else HIDDEN
            raise LdapError(f'invalid LDAP option: "{shown}"')
        if equals:
            found.append((key, value))
        elif word:
            stray = stray or word
    return found


def words(text: str) -> Iterator[str]:
    """Yield the words of *text* without their quotes, up to a comment.

    A quote may open and close anywhere in a word; what stands between is taken as it
    is, but for a doubled quote.
    """
    at, size = 0, len(text)
    while at < size:
        if text[at] in BETWEEN:
            at += 1
            continue
        if text[at] == "#":
            return
        word: list[str] = []
        quoted = False
        while at < size and (quoted or text[at] not in BETWEEN):
            if text[at] != '"':
                word.append(text[at])
            elif quoted and text[at + 1 : at + 2] == '"':
                word.append('"')
                at += 1
            else:
                quoted = not quoted
            at += 1
        yield "".join(word)


# The library


class Timeval(ctypes.Structure):
    """struct timeval."""

    _fields_ = (("seconds", ctypes.c_long), ("microseconds", ctypes.c_long))


class Berval(ctypes.Structure):
    """struct berval."""

    _fields_ = (("length", ctypes.c_ulong), ("value", ctypes.c_char_p))


# The functions used, their arguments, and their result where it is no int.
_FUNCTIONS: dict[str, tuple[list[Any], Any]] = {
    "ldap_initialize": ([ctypes.POINTER(ctypes.c_void_p), ctypes.c_char_p], None),
    "ldap_set_option": ([ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p], None),
    "ldap_start_tls_s": ([ctypes.c_void_p] * 3, None),
    "ldap_sasl_bind_s": (
        [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.POINTER(Berval),
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ],
        None,
    ),
    "ldap_search_ext_s": (
        [
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_char_p,
            ctypes.POINTER(ctypes.c_char_p),
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.POINTER(Timeval),
            ctypes.c_int,
            ctypes.POINTER(ctypes.c_void_p),
        ],
        None,
    ),
    "ldap_count_entries": ([ctypes.c_void_p] * 2, None),
    "ldap_first_entry": ([ctypes.c_void_p] * 2, ctypes.c_void_p),
    "ldap_get_dn": ([ctypes.c_void_p] * 2, ctypes.c_void_p),
    "ldap_memfree": ([ctypes.c_void_p], None),
    "ldap_msgfree": ([ctypes.c_void_p], None),
    "ldap_unbind_ext_s": ([ctypes.c_void_p] * 3, None),
    "ldap_err2string": ([ctypes.c_int], ctypes.c_char_p),
    "ldap_dn2domain": ([ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)], None),
    "ldap_domain2hostlist": ([ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)], None),
}


@cache
def library() -> Any:
    """Load libldap and say what its functions take; None when there is none.

    Only when somebody needs it: it brings a TLS library of its own.
    """
    for name in (
        "libldap.so.2",
        "libldap-2.5.so.0",
        "libldap_r-2.4.so.2",
        "libldap.so",
    ):
        try:
            found = ctypes.CDLL(name)
            for function, (arguments, result) in _FUNCTIONS.items():
                getattr(found, function).argtypes = arguments
                if result is not None:
                    getattr(found, function).restype = result
        except (OSError, AttributeError):
            continue
        return found
    return None


_threads = ThreadPoolExecutor(WORKERS, "ldap")


def text_of(code: int) -> str:
    """Say what a result code means."""
    text: bytes = library().ldap_err2string(code)
    return text.decode("utf-8", "replace")


def _take_string(pointer: ctypes.c_void_p) -> str:
    """Copy a string that the library has made, and free it."""
    value = ctypes.string_at(pointer.value or 0).decode("utf-8", "surrogateescape")
    library().ldap_memfree(pointer)
    return value


class Connection:
    """One connection to one of the servers."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.handle = ctypes.c_void_p()
        self.server, uris = addresses(options)
        code = library().ldap_initialize(ctypes.byref(self.handle), encode_text(uris))
        if code != LDAP_SUCCESS:
            raise LdapError(f"could not initialize LDAP: {text_of(code)}")
        try:
            self.prepare()
        except LdapError:
            self.close()
            raise

    def prepare(self) -> None:
        """Choose protocol and time-outs; begin TLS if that is wanted."""
        version = ctypes.c_int(LDAP_VERSION3)
        self.set_option(LDAP_OPT_PROTOCOL_VERSION, version, "protocol version")
        self.set_option(
            LDAP_OPT_NETWORK_TIMEOUT, Timeval(NETWORK_TIMEOUT, 0), "timeout"
        )
        self.set_option(LDAP_OPT_TIMEOUT, Timeval(ANSWER_TIMEOUT, 0), "timeout")
        if self.options.tls:
            code = library().ldap_start_tls_s(self.handle, None, None)
            if code != LDAP_SUCCESS:
                port = self.options.port or PORTS[self.options.scheme]
                raise LdapError(
                    f"could not start LDAP TLS session: {text_of(code)}, "
                    f"server: {self.server}, port: {port}"
                )

    def set_option(self, option: int, value: Any, what: str) -> None:
        """Set one option of the connection."""
        code = library().ldap_set_option(self.handle, option, ctypes.byref(value))
        if code != LDAP_SUCCESS:
            raise LdapError(f"could not set LDAP {what}: {text_of(code)}")

    def bind(self, dn: str, password: bytes) -> int:
        """Log in with a simple bind; gives the result code."""
        secret = Berval(len(password), password)
        code: int = library().ldap_sasl_bind_s(
            self.handle, encode_text(dn), None, ctypes.byref(secret), None, None, None
        )
        return code

    def search(self, user: str) -> str:
        """Find the DN of *user*, who must exist once."""
        shown = self.options.filter_for(user)
        attributes = (ctypes.c_char_p * 2)(NO_ATTRIBUTES, None)
        result = ctypes.c_void_p()
        code = library().ldap_search_ext_s(
            self.handle,
            encode_text(self.options.base_dn or ""),
            self.options.scope,
            encode_text(shown),
            attributes,
            0,
            None,
            None,
            ctypes.byref(Timeval(ANSWER_TIMEOUT, 0)),
            0,
            ctypes.byref(result),
        )
        try:
            if code != LDAP_SUCCESS:
                raise LdapError(
                    f'could not search LDAP for filter "{shown}" on server '
                    f'"{self.server}": {text_of(code)}',
                    self.options.where(),
                )
            return self.only_entry(result, user, shown)
        finally:
            if result:
                library().ldap_msgfree(result)

    def only_entry(self, result: Any, user: str, shown: str) -> str:
        """Give the DN of the one entry that was found."""
        count = library().ldap_count_entries(self.handle, result)
        if count != 1:
            what = "does not exist" if count == 0 else "is not unique"
            many = "no entries" if count == 0 else f"{count} entries"
            raise LdapError(
                f'LDAP user "{user}" {what}',
                f'LDAP search for filter "{shown}" on server "{self.server}" '
                f"returned {many}.",
                *([] if count else [self.options.where()]),
            )
        entry = library().ldap_first_entry(self.handle, result)
        dn = library().ldap_get_dn(self.handle, entry)
        if not dn:
            raise LdapError(f'LDAP user "{user}" does not exist')
        return _take_string(ctypes.c_void_p(dn))

    def close(self) -> None:
        """Say goodbye."""
        library().ldap_unbind_ext_s(self.handle, None, None)


def addresses(options: Options) -> tuple[str, str]:
    """Give the servers as the log names them, and as a list of URIs."""
    port = options.port or PORTS[options.scheme]
    if options.server:
        uris = [f"{options.scheme}://{host}:{port}" for host in options.server.split()]
        return options.server, " ".join(uris)
    # RFC 2782: the servers of the domain that the base DN names.
    domain = ctypes.c_void_p()
    base = encode_text(options.base_dn or "")
    if library().ldap_dn2domain(base, ctypes.byref(domain)) or not domain:
        raise LdapError("could not extract domain name from ldapbasedn")
    name = _take_string(domain)
    hosts = ctypes.c_void_p()
    if (
        library().ldap_domain2hostlist(encode_text(name), ctypes.byref(hosts))
        or not hosts
    ):
        raise LdapError(
            f'LDAP authentication could not find DNS SRV records for "{name}"'
        )
    found = _take_string(hosts)
    uris = [f"{options.scheme}://{host}" for host in found.split()]
    return found, " ".join(uris)


# A login


async def is_available() -> bool:
    """Say whether this machine has libldap; not behind those whom it makes wait."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, library) is not None


async def authenticate(options: str, user: str, password: bytes) -> bool:
    """Say whether the LDAP server accepts *user* with *password*."""
    loop = asyncio.get_running_loop()
    lines = await loop.run_in_executor(_threads, check, options, user, password)
    for line in lines:
        log.warning(line)
    return not lines


def check(text: str, user: str, password: bytes) -> tuple[str, ...]:
    """Ask the server; gives nothing when it accepts, else lines for the log. Blocks."""
    # An empty password would bind as nobody, and be accepted.
    if not password or len(password) > MAX_SECRET:
        return ("LDAP login failed: no password",)
    try:
        options = Options(text)
        if options.base_dn is not None:
            dn = find(options, user)
        else:
            dn = f"{options.prefix or ''}{user}{options.suffix or ''}"
        connection = Connection(options)
        try:
            code = connection.bind(dn, password)
        finally:
            connection.close()
        if code != LDAP_SUCCESS:
            raise LdapError(
                f"LDAP login failed for user {dn} on server {connection.server}: "
                f"{text_of(code)}"
            )
    except LdapError as error:
        return error.lines
    return ()


def find(options: Options, user: str) -> str:
    """Search for *user* with the rights of ldapbinddn; gives the DN."""
    if FORBIDDEN.intersection(user):
        raise LdapError("invalid character in user name for LDAP authentication")
    connection = Connection(options)
    try:
        bind_dn = options.bind_dn or ""
        code = connection.bind(bind_dn, encode_text(options.bind_password or ""))
        if code != LDAP_SUCCESS:
            raise LdapError(
                f'could not perform initial LDAP bind for ldapbinddn "{bind_dn}" on '
                f'server "{connection.server}": {text_of(code)}'
            )
        return connection.search(user)
    finally:
        connection.close()
