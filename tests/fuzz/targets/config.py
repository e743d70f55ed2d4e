"""The parsers of configuration: ini file, auth_file, HBA, ident maps, connection
strings, LDAP options, and `--check` over all of it.

The steps' data together are the text; setup's first byte says which parser reads it.
Each refuses with its own error, and nothing else.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from bouncer.auth.ldap import LdapError, Options
from bouncer.check.main import check_main
from bouncer.config.connstr import BadConnstr, pairs
from bouncer.config.hba import HbaRules
from bouncer.config.ident import IdentMaps
from bouncer.config.load import load
from bouncer.config.userlist import UserListFile
from bouncer.errors import ConfigError
from tests.fuzz.steps import Step

_kept = tempfile.TemporaryDirectory(prefix="fuzz-")
PLACE = Path(_kept.name)
INI, USERS, HBA, IDENT, CONNSTR, LDAP, CHECK = range(7)
INI_WORDS = (
    "[databases]\n", "[pgbouncer]\n", "[users]\n", "[peers]\n", "[pybouncer]\n",
    "p0 = ",
    "* = host=127.0.0.1 port=5432\n", "1 = host=h port=1\n", "u = pool_mode=session\n",
    "p0 = host='a''b' port=1 dbname=x user=u password=p connect_query='select 1'\n",
    "host=", "port=", "5432", "'", '"', " ", "\n", "%include x.ini\n", ";", "#", "=",
    "pool_mode = session\n", "auth_type = hba\n", "listen_port = 99999\n", "0777", "\t",
    "max_client_conn = -1\n", "server_lifetime = 1e400\n", "query_timeout = nan\n", "*",
    "default_pool_size = 99999999999999999999\n", "unix_socket_mode = 0777\n", "\0",
    "\r",
    "\ufeff", "a" * 130, "track_extra_parameters = a, b\n",
    "client_tls_sslmode = require\n",
    "proxy_protocol_networks = ::/0, 1.2.3.4/33, unix\n",
    "server_check_query = <empty>\n",
    "ignore_startup_parameters = extra_float_digits\n", "auth_query = select $1\n",
    "health_listen = *:1\n", "haproxy_sockets = /x\n",
    "auth_ldap_options = ldapserver=x\n",
)  # fmt: skip
HBA_WORDS = (
    "host ", "local ", "hostssl ", "hostnossl ", "all ", "sameuser ", "@names ", '"',
    ",",
    "127.0.0.1/32 ", "::1/128 ", "10.0.0.0 255.0.0.0 ", "/33", "trust\n", "md5\n",
    "reject",
    "scram-sha-256\n", "cert map=x\n", "ldap ldapserver=x ldapprefix=y\n", "\\\n", "#",
    "\n",
    "+grp ", "samenet ", "samehost ", "replication ", "pam\n", "peer map=m\n",
    "password\n",
    "host all all 0.0.0.0/0 md5\n", "local db \"u\" peer map=m\n",
    "::ffff:1.2.3.4/128 ",
)  # fmt: skip
OTHER_WORDS = (
    '"a" "b"\n', '"a" "md5' + "0" * 32 + '"\n',
    '"u" "SCRAM-SHA-256$1:QQ==$QQ==:QQ=="\n',
    '"', "\\", '""', "m sys user\n", "m /^(.*)x$ \\1\n", "m s all\n", "a=b ",
    "a='b''c' ",
    "ldapserver=x ", "ldapurl=ldap://h:1/dc=x?uid?sub?(a=b) ", "ldapport=0 ",
    "ldaptls=1 ",
    'ldapprefix="cn=" ', "ldapsuffix=, ", "ldapbasedn='x' ", "ldapscheme=ldaps ", "(&",
    "\n",
)  # fmt: skip
words = {
    0: [word.encode() for word in INI_WORDS],
    1: [word.encode() for word in HBA_WORDS],
    2: [word.encode() for word in OTHER_WORDS],
}


def write(name: str, data: bytes) -> str:
    (PLACE / name).write_bytes(data)
    return str(PLACE / name)


def read_ini(data: bytes) -> None:
    path = write("f.ini", data)
    with contextlib.suppress(ConfigError):
        first = load(path, None, 0)
        load(path, first)


def read_users(data: bytes) -> None:
    UserListFile(write("users", data)).reread_if_changed()


def read_hba(data: bytes) -> None:
    head, _, rest = data.partition(b"\n\n")
    write("names", head[:200])
    idents = IdentMaps.read(write("ident", rest[:500]))
    rules = HbaRules.read(write("hba", data), idents)
    for user, address, tls in (("u", "127.0.0.1", False), ("\udcff", "::1", True)):
        rules.match("db", user, address, tls, 0)
        rules.match("\udcff", user, None, tls, 1)


def read_ident(data: bytes) -> None:
    maps = IdentMaps.read(write("ident", data))
    if (found := maps.get("m")) is not None:
        found.allows("sys", "user")


def read_connstr(data: bytes) -> None:
    with contextlib.suppress(BadConnstr):
        list(pairs(data.decode("utf-8", "surrogateescape")))


def read_ldap(data: bytes) -> None:
    with contextlib.suppress(LdapError):
        options = Options(data.decode("utf-8", "surrogateescape"))
        options.filter_for("a*(b)\\\0é")


def check(data: bytes) -> None:
    """`--check` says what it thinks; that is not printed."""
    path = write("c.ini", data)
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", "surrogateescape")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        check_main(["--offline", path])


READERS: tuple[Callable[[bytes], None], ...] = (
    read_ini, read_users, read_hba, read_ident, read_connstr, read_ldap, check,
)  # fmt: skip


def run(setup: bytes, steps: list[Step]) -> None:
    """Play one input."""
    os.chdir(PLACE)  # what an %include or @names finds is ours
    READERS[setup[0] % len(READERS)](b"".join(step.data for step in steps))
