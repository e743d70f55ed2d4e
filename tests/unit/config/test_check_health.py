"""`--check` says whom health checks cannot log in as, before they have to."""

import socket
import threading

import pytest

from bouncer.check.findings import WARNING
from bouncer.check.main import check
from bouncer.wire import messages
from ha.errors import InventoryError
from ha.ini import Source
from ha.inventory import Inventory
from ha.parts import role_can_be_asked
from tests.unit.config.test_check import found, write  # noqa: F401  (a fixture)

SCRAM = (
    "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$"
    "WUy6pn6bOUBBZbl9CHZB0cW1ZdzFvyd0rNq1vRhcPWs=:"
    "6QwTE5K4D6K0Yf4VPvCiA3DPYEuO6cWYrOQBVXYc3lM="
)
USERS = f'"alice" "secret"\n"bob" "{SCRAM}"\n'
HEALTH = "[pybouncer]\nhealth_listen = 127.0.0.1:6480\n"


def warned(write, rest: str) -> list[str]:  # noqa: F811
    """The settings or databases that are warned of for their SCRAM secret."""
    places, texts = found(write(rest, users=USERS))
    return [
        place[2]
        for place, text in zip(places, texts, strict=True)
        if "SCRAM secret" in text and place[0] == WARNING
    ]


@pytest.mark.parametrize(
    ("rest", "named"),
    [
        (HEALTH + "health_user = alice\n[databases]\na = host=h\n", []),
        (HEALTH + "health_user = bob\n[databases]\na = host=h\n", ["health_user"]),
        (HEALTH + "[databases]\na = host=h auth_user=bob\n", ["a"]),
        (HEALTH + f"[databases]\na = host=h user=x password={SCRAM}\n", ["a"]),
        (f"[databases]\na = host=h user=x password={SCRAM}\n", []),
        (HEALTH + "[databases]\na = host=h user=alice password=secret\n", []),
    ],
)
def test_secret_that_cannot_log_in_is_told_before(write, rest, named):  # noqa: F811
    """A `health_user` with a SCRAM secret kept the farm down, and nothing warned."""
    assert warned(write, rest) == named


def test_login_of_the_health_user_is_tried(write):  # noqa: F811
    """A stale password is seen where servers may be asked."""
    server = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        link, _ = server.accept()
        with link:
            link.recv(1000)
            link.sendall(messages.error_response("no such password", "28P01"))

    thread = threading.Thread(target=refuse)
    thread.start()
    path = write(
        "server_tls_sslmode = disable\n"
        + HEALTH
        + "health_user = alice\n[databases]\n"
        + f"a = host=127.0.0.1 port={server.getsockname()[1]}\n"
    )
    findings, _ = check(path)
    thread.join()
    server.close()
    [finding] = [one for one in findings if one.setting == "health_user"]
    assert finding.level == WARNING
    assert "cannot log in" in finding.text and "no such password" in finding.text


def test_layout_by_roles_wants_somebody_who_can_ask(
    write,  # noqa: F811
) -> None:
    """`ha render` was silent, too."""
    path = write(f"{HEALTH}health_user = bob\n[databases]\na = host=h\n", users=USERS)
    with pytest.raises(InventoryError, match="SCRAM"):
        role_can_be_asked(Inventory(name="shop"), Source.read(path))
