"""A configuration full of secrets: none of them comes out anywhere.

Every secret has CANARY in it. The log, the console, metrics, --check and --explain
are read for it, also when the lines that hold the secrets are broken.
"""

from __future__ import annotations

import subprocess
import urllib.request
from typing import Any

import pytest

from admin.show import TOPICS
from admin.sql import SOURCES

LDAP = (
    "ldapserver=127.0.0.1 "
    'ldapbasedn="dc=x" ldapbinddn="cn=y" ldapbindpasswd="CANARY""1"'
)
MORE = """\
[pybouncer]
health_listen = 127.0.0.1:{health}
"""
DATABASES = {
    "p0": "{pg} dbname=p0 connect_query='select set_config(''x.y'', ''CANARY2'', "
    "false)'",
    "p1": "{pg} dbname=p1 user=u_trust password='CANARY 3'",
}
USERS = {"u_trust": "CANARY4", "admin": "CANARY5", "stats": "CANARY6"}

# Lines that hold a secret and a mistake.
BROKEN = [
    ("databases", "bad = host=h passwrod=CANARY7"),
    ("databases", "bad = host=h password='CANARY8"),
    ("databases", "bad = host=h port=x password=CANARY9"),
    ("databases", "bad = host=h password=CAN CANARY10"),
    ("databases", "bad = host=h password CANARY11"),
    ("databases", "bad = host=h connect_query='CANARY12"),
    ("pgbouncer", "auth_ldap_optoins = ldapbindpasswd=CANARY13"),
    ("pgbouncer", "password = CANARY14"),
    ("pgbouncer", "ldapurl = ldap://cn=a:CANARY15@h/dc=x"),
    ("users", "joe = password=CANARY16"),
]


@pytest.fixture
def secretive(pooler: Any, free_port: Any) -> Any:
    """A pooler with secrets, as talkative as it can be."""
    health = free_port()
    one = pooler(
        {"verbose": 3, "auth_ldap_options": LDAP},
        databases=DATABASES,
        users=USERS,
        more=MORE.replace("{health}", str(health)),
    )
    one.health = health
    return one


def seen(one: Any) -> str:
    """All that was logged."""
    return "\n".join(one.log_matches("CANARY"))


def test_no_secret_on_the_console(secretive: Any) -> None:
    """`ldapbindpasswd` stood in SHOW CONFIG, which stats users may see."""
    one = secretive
    with one.connect("p0") as client:
        client.execute("select 1")
    for user in ("admin", "stats"):
        for topic in TOPICS:
            if topic != "FDS" or user == "admin":
                rows = one.console(f"SHOW {topic}", user)
                assert "CANARY" not in str(rows), topic
        for table in SOURCES:
            assert "CANARY" not in str(one.console(f"SELECT * FROM {table}", user))
    rows = {row["key"]: row["value"] for row in one.console("SHOW CONFIG")}
    assert rows["auth_ldap_options"].endswith("ldapbindpasswd=***")
    for path in ("/metrics", "/status", "/ready?db=p0"):
        with urllib.request.urlopen(
            f"http://127.0.0.1:{one.health}{path}", timeout=10
        ) as got:
            assert "CANARY" not in got.read().decode()
    assert not seen(one)


def test_no_secret_from_a_mistyped_command(secretive: Any) -> None:
    one = secretive
    for sql in (
        "STE auth_ldap_options = 'ldapbindpasswd=CANARY17'",
        "SET nosuch = 'ldapbindpasswd=CANARY18'",
        "SET auth_ldap_options = 'ldapbindpasswd=CANARY19",
    ):
        with pytest.raises(Exception, match=r"invalid|failed") as caught:
            one.console(sql)
        assert "CANARY" not in str(caught.value)
    one.console("SET auth_ldap_options = 'ldapbindpasswd=CANARY20'")
    assert "CANARY" not in str(one.console("SHOW CONFIG"))
    assert not seen(one)


def test_no_secret_from_lines_with_mistakes(secretive: Any) -> None:
    one = secretive
    path = one.directory / "pgbouncer.ini"
    good = path.read_text()
    for section, line in BROKEN:
        path.write_text(f"{good}\n[{section}]\n{line}\n")
        with pytest.raises(Exception, match="RELOAD failed"):
            one.console("RELOAD")
        assert not seen(one), line
    path.write_text(good)
    one.console("RELOAD")


INI = """\
[databases]
p1 = host=127.0.0.1 user=u_trust password='CANARY 3'
[pgbouncer]
listen_addr = 127.0.0.1
unix_socket_dir =
"""


@pytest.mark.parametrize(("section", "line"), [("databases", "b = host=h"), *BROKEN])
def test_no_secret_from_check_and_explain(
    lab: Any, tmp_path: Any, section: str, line: str
) -> None:
    path = tmp_path / "a.ini"
    path.write_text(f"{INI}auth_ldap_options = {LDAP}\n[{section}]\n{line}\n")
    for arguments in (
        ["--check", "--offline", "--json"],
        ["--explain", "p1", "u_trust", "10.0.0.1"],
    ):
        done = subprocess.run(
            [*lab.command, *arguments, str(path)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "CANARY" not in done.stdout + done.stderr, arguments


@pytest.mark.parametrize(
    "line",
    [
        "host all all 0.0.0.0/0 ldap ldapserver=h ldapbasedn=x ldapbindpasswd=CANARY21",
        "host all all 10.0.0.1/8 ldapbindpasswd=CANARY22",
        'host all all 0.0.0.0/0 trust ldapbindpasswd="CANARY23"',
        'host all ldapbindpasswd="CANARY24" 0.0.0.0/0 trust',
        "host all all 0.0.0.0/0 trust password=CANARY25",
    ],
)
def test_no_secret_from_hba_lines(pooler: Any, lab: Any, line: str) -> None:
    one = pooler({"verbose": 3})
    (one.directory / "hba").write_text(f"host all admin all trust\n{line}\n")
    one.reload(auth_type="hba", auth_hba_file="{dir}/hba")
    one.console("SHOW CONFIG")
    assert not seen(one)
