"""Logins that somebody else decides about: a real slapd, and the machine's own PAM.

The whole program is asked, from the client's password to the login at PostgreSQL,
which is done with the password that LDAP or PAM has accepted.
"""

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.ground import PASSWORDS, Ground
from tests.support.slapd import ADMIN, ADMIN_PASSWORD, Slapd, need_slapd

# At PostgreSQL: md5, SCRAM and a password in clear, each of which needs the password.
USERS = ("u_md5", "u_scram2", "u_plain")
WRONG = "not-the-password"


def value(connection: psycopg.Connection[Any], sql: str) -> Any:
    row = connection.execute(sql.encode()).fetchone()
    return row[0] if row else None


def logs_in(one: Any, user: str) -> bool:
    with one.connect(user=user, password=PASSWORDS[user]) as connection:
        return bool(value(connection, "select current_user") == user)


def refused(
    one: Any, user: str, password: str, text: str, database: str = "p0"
) -> None:
    """The login fails with *text*, and the log names all but the password."""
    with pytest.raises(psycopg.OperationalError, match=f"FATAL: +{text}"):
        one.connect(database, user, password=password)
    where = r"127\.0\.0\.1:\d+"
    last = one.wait_for_log(f"/{user}@{where} closing because: {text}")
    mark = re.search(r"C-0x\w+", last)
    assert mark
    # The reason says the method; the attempt says the database.
    attempt = f"{mark[0]}: .*{user}@{where} login attempt: db={database} user={user} "
    assert one.log_matches(attempt)
    assert one.log_matches(f"{mark[0]}: .*/{user}@{where} pooler error: {text}")


def keeps_secrets(one: Any) -> None:
    told = one.text()
    assert "login attempt" in told
    for secret in (*PASSWORDS.values(), WRONG, ADMIN_PASSWORD):
        assert secret not in told


# LDAP


@pytest.fixture(scope="module")
def slapd(lab: Ground) -> Iterator[Slapd]:
    need_slapd()
    place = lab.directory()
    certificates = Path(str(lab.certificates))
    server = Slapd(
        place,
        certificates / "bouncer.crt",
        certificates / "bouncer.key",
        {user: PASSWORDS[user] for user in USERS},
    )
    yield server
    server.stop()


SIMPLE = 'ldapprefix="uid=" ldapsuffix=",ou=people,dc=example"'
SEARCH = f'ldapbasedn="dc=example" ldapbinddn="{ADMIN}" ldapbindpasswd={ADMIN_PASSWORD}'
FILTER = f'{SEARCH} ldapsearchfilter="(&(uid=$username)(objectClass=person))"'
# By address: libldap takes the name localhost for the machine's own.
LDAP_WAYS = {
    "simple bind": "ldapserver=127.0.0.1 ldapport={port} " + SIMPLE,
    "search+bind": "ldapserver=127.0.0.1 ldapport={port} " + SEARCH,
    "filter": "ldapserver=127.0.0.1 ldapport={port} " + FILTER,
    "StartTLS": "ldapserver=127.0.0.1 ldapport={port} ldaptls=1 " + SIMPLE,
    "ldaps": "ldapserver=127.0.0.1 ldapscheme=ldaps ldapport={tls_port} " + SEARCH,
    "ldapurl": 'ldapurl="ldaps://127.0.0.1:{tls_port}/dc=example?uid?sub" '
    f'ldapbinddn="{ADMIN}" ldapbindpasswd={ADMIN_PASSWORD}',
}


def options_for(slapd: Slapd, way: str) -> str:
    return LDAP_WAYS[way].format(port=slapd.port, tls_port=slapd.tls_port)


@pytest.fixture
def ldap_pooler(
    pooler: Callable[..., Any], lab: Ground, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Start a pooler whose HBA file asks LDAP with given options."""
    monkeypatch.setenv("LDAPTLS_CACERT", f"{lab.certificates}/ca.crt")

    def start(options: str, **settings: object) -> Any:
        ini = {"auth_type": "hba", "auth_hba_file": "{dir}/hba", "verbose": 3}
        one = pooler(
            {**ini, "pool_mode": "transaction", **settings},
            # One is in auth_file too, with a secret that must not count.
            users={"u_plain": "other", "admin": "adminpass", "u_trust": ""},
            run=False,
        )
        (one.directory / "hba").write_text(
            "host all admin,u_trust 127.0.0.1/32 trust\n"
            f"host all all 127.0.0.1/32 ldap {options}\n"
        )
        one.write_configuration()
        return one.run()

    return start


@pytest.mark.parametrize("way", LDAP_WAYS)
def test_ldap_decides_and_its_password_logs_in_at_the_server(
    ldap_pooler: Callable[..., Any], slapd: Slapd, way: str
) -> None:
    one = ldap_pooler(options_for(slapd, way))
    for user in USERS:
        refused(one, user, WRONG, "LDAP authentication failed")
        assert logs_in(one, user)
        # Beside a warm pool too.
        refused(one, user, WRONG, "LDAP authentication failed")
    refused(one, "u_plain", "other", "LDAP authentication failed")
    refused(one, "nobody_there", "plainpass", "LDAP authentication failed")
    if way in ("simple bind", "StartTLS"):
        told = "LDAP login failed for user uid=nobody_there,ou=people,dc=example on"
    else:
        told = 'LDAP user "nobody_there" does not exist'
    assert one.log_matches(told)
    keeps_secrets(one)


def test_auth_type_ldap_asks_with_auth_ldap_options(
    ldap_pooler: Callable[..., Any], slapd: Slapd
) -> None:
    one = ldap_pooler(
        "unused=1",
        auth_type="ldap",
        auth_ldap_options=options_for(slapd, "search+bind"),
    )
    assert logs_in(one, "u_scram2")
    refused(one, "u_scram2", WRONG, "LDAP authentication failed")
    refused(one, "u_md5", PASSWORDS["u_md5"], "no such database: gone", "gone")
    keeps_secrets(one)


@pytest.mark.parametrize("way", ["StartTLS", "ldaps"])
def test_ldap_server_with_a_certificate_of_another_authority_is_not_believed(
    ldap_pooler: Callable[..., Any],
    slapd: Slapd,
    lab: Ground,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    monkeypatch.setenv("LDAPTLS_CACERT", f"{lab.certificates}/rogueca.crt")
    one = ldap_pooler(options_for(slapd, way))
    refused(one, "u_plain", PASSWORDS["u_plain"], "LDAP authentication failed")
    keeps_secrets(one)


def test_ldap_server_that_says_nothing_holds_up_nobody_else(
    ldap_pooler: Callable[..., Any],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        one = ldap_pooler(
            f"ldapserver=127.0.0.1 ldapport={port} {SIMPLE}", client_login_timeout=2
        )
        threads = [
            threading.Thread(
                target=refused, args=(one, "u_plain", WRONG, "client_login_timeout")
            )
            for _ in range(8)  # more than ask at once
        ]
        for thread in threads:
            thread.start()
        connection, _ = silent.accept()
        with connection, one.connect() as other:
            for _ in range(100):
                assert value(other, "select 1") == 1
            assert not one.log_matches("closing because: client_login_timeout")
            for thread in threads:
                thread.join()


# PAM

SERVICE = Path("/etc/pam.d/pgbouncer")
OURS = "# made by the tests of pybouncer, process {}\n"


def is_left_over() -> bool:
    """Whether the service file is one that a run of these tests left behind."""
    made = re.match(OURS.format(r"(\d+)"), SERVICE.read_text())
    return bool(made) and not Path(f"/proc/{made[1]}").exists()  # type: ignore[index]


@pytest.fixture
def pam_stack() -> Iterator[Callable[..., None]]:
    """Write the machine's PAM service `pgbouncer`: there is no other place for it."""
    if os.getuid() != 0 or not SERVICE.parent.is_dir():
        pytest.skip("only root can make a PAM service")
    if SERVICE.exists() and not is_left_over():
        pytest.skip(f"{SERVICE} is in use")

    def write(*lines: str) -> None:
        SERVICE.write_text(OURS.format(os.getpid()) + "\n".join(lines) + "\n")

    yield write
    SERVICE.unlink(missing_ok=True)


@pytest.fixture
def pam_pooler(pooler: Callable[..., Any]) -> Callable[..., Any]:
    def start(**settings: object) -> Any:
        return pooler(
            {"auth_type": "pam", "verbose": 3, "pool_mode": "transaction", **settings},
            databases={"p0": "{pg} dbname=p0"},
            users={},
        )

    return start


@pytest.fixture
def checking(lab: Ground) -> Iterator[Path]:
    """A program that accepts what stands in file `passwords` beside it.

    It waits for `gate` to be readable, which is a named pipe when a test wants it to.
    """
    place = lab.directory()
    program = place / "check"
    program.write_text(
        "#!/bin/sh\n"
        'IFS= read -r given || [ -n "$given" ] || exit 1\n'
        "given=$(printf %s \"$given\" | tr -d '\\000')\n"
        f'read -r _ < "{place}/gate"\n'
        f'grep -qxF "$PAM_USER $PAM_RHOST $given" "{place}/passwords"\n'
    )
    program.chmod(0o755)
    (place / "gate").write_text("open\n")
    (place / "passwords").write_text(
        "".join(f"{user} 127.0.0.1 {PASSWORDS[user]}\n" for user in USERS)
    )
    yield program
    lab.done_with(place)


def exec_line(program: Path) -> str:
    return f"auth required pam_exec.so expose_authtok quiet {program}"


PERMIT = "required pam_permit.so"
DENY = "required pam_deny.so"


def test_pam_stack_decides_and_its_password_logs_in_at_the_server(
    pam_pooler: Callable[..., Any], pam_stack: Callable[..., None], checking: Path
) -> None:
    one = pam_pooler()
    pam_stack(exec_line(checking), f"account {PERMIT}")
    for user in USERS:
        refused(one, user, WRONG, "PAM authentication failed")
        assert logs_in(one, user)
        refused(one, user, WRONG, "PAM authentication failed")
    refused(one, "nobody_there", WRONG, "PAM authentication failed")
    assert one.log_matches(r"WARNING pam_authenticate\(\) failed: ")
    keeps_secrets(one)


def test_pam_permit_and_deny_count_for_authentication_and_account(
    pam_pooler: Callable[..., Any], pam_stack: Callable[..., None]
) -> None:
    one = pam_pooler()
    pam_stack(f"auth {PERMIT}", f"account {PERMIT}")
    assert logs_in(one, "u_scram2")
    pam_stack(f"auth {DENY}", f"account {PERMIT}")
    refused(one, "u_scram2", PASSWORDS["u_scram2"], "PAM authentication failed")
    pam_stack(f"auth {PERMIT}", f"account {DENY}")
    refused(one, "u_scram2", PASSWORDS["u_scram2"], "PAM authentication failed")
    one.wait_for_log(r"WARNING pam_acct_mgmt\(\) failed: ")
    pam_stack(f"auth {PERMIT}", f"account {PERMIT}")
    # PAM lets everybody in; PostgreSQL still wants the right password.
    with pytest.raises(
        psycopg.OperationalError, match="password authentication failed"
    ):
        one.connect(user="u_plain", password=WRONG)
    keeps_secrets(one)


def test_pam_module_that_takes_its_time_holds_up_nobody_else(
    pam_pooler: Callable[..., Any], pam_stack: Callable[..., None], checking: Path
) -> None:
    pam_stack(exec_line(checking), f"account {PERMIT}")
    one = pam_pooler()
    gate = checking.with_name("gate")
    with one.connect(user="u_md5", password=PASSWORDS["u_md5"]) as other:
        gate.unlink()
        os.mkfifo(gate, 0o644)
        gate.chmod(0o644)
        done: list[bool] = []
        slow = threading.Thread(target=lambda: done.append(logs_in(one, "u_plain")))
        slow.start()
        # Opening succeeds once the module reads from the other end.
        with gate.open("w") as opened:
            for _ in range(100):
                assert value(other, "select 1") == 1
            assert not done
            opened.write("open\n")
        slow.join()
    assert done == [True]
