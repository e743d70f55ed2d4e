"""PAM, asked through the machine's own libpam with service files of ours.

The stack is real: pam_permit, pam_deny, and pam_exec, which hands the password to a
program. Only the directory of the service files is not /etc/pam.d.
"""

import asyncio
import ctypes
import shutil
from pathlib import Path
from typing import Any

import pytest

from bouncer.auth import pam
from tests.unit.talks.driver import Lines, catch_log

MODULES = [Path("/lib/x86_64-linux-gnu/security"), Path("/usr/lib/security"),
           Path("/lib/security"), Path("/usr/lib64/security"),
           Path("/lib/aarch64-linux-gnu/security")]  # fmt: skip


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Lines:
    return catch_log(monkeypatch)


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes the service file `pgbouncer`."""
    libraries = pam.libraries()
    if libraries is None or not any(path.is_dir() for path in MODULES):
        pytest.skip("needs PAM (apt-get install libpam-modules)")
    try:
        start = ctypes.CDLL("libpam.so.0").pam_start_confdir
    except AttributeError:
        pytest.skip("needs pam_start_confdir (Linux-PAM 1.4)")
    handle = ctypes.POINTER(ctypes.c_void_p)
    start.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(pam.Conv),
                      ctypes.c_char_p, handle]  # fmt: skip
    where = str(tmp_path).encode()

    def started(service: bytes, user: bytes, conv: Any, found: Any) -> int:
        code: int = start(service, user, conv, where, found)
        return code

    monkeypatch.setattr(libraries, "start", started)

    def write(*lines: str) -> None:
        (tmp_path / "pgbouncer").write_text("\n".join(lines) + "\n")

    return write


def ask(user: str = "eve", password: bytes = b"secret", address: str = "") -> bool:
    return asyncio.run(pam.authenticate(user, password, address))


def test_permitted(stack: Any, logged: Lines) -> None:
    stack("auth required pam_permit.so", "account required pam_permit.so")
    assert ask() and ask(address="10.0.0.1")
    assert logged.take() == []


def test_denied(stack: Any, logged: Lines) -> None:
    stack("auth required pam_deny.so", "account required pam_permit.so")
    assert not ask()
    assert logged.take() == [
        "WARNING pam_authenticate() failed: Authentication failure"
    ]


def test_account_is_checked_too(stack: Any, logged: Lines) -> None:
    stack("auth required pam_permit.so", "account required pam_deny.so")
    assert not ask()
    [line] = logged.take()
    assert line.startswith("WARNING pam_acct_mgmt() failed: ")


def test_service_that_does_not_exist(stack: Any, logged: Lines) -> None:
    assert not ask()
    [line] = logged.take()
    assert line.startswith(("WARNING pam_start() failed", "WARNING pam_authenticate()"))


@pytest.mark.parametrize(
    ("password", "fine"),
    [(b"s\xc3\xa9cret", True), (b"secret", False), (b"s\xc3\xa9cret ", False)],
)
def test_password_and_address_reach_the_modules(
    stack: Any, logged: Lines, tmp_path: Path, password: bytes, fine: bool
) -> None:
    script = tmp_path / "check"
    script.write_text(
        f"#!{shutil.which('sh')}\n"
        'IFS= read -r given || [ -n "$given" ] || exit 1\n'
        "given=$(printf %s \"$given\" | tr -d '\\000')\n"
        'echo "$PAM_USER $PAM_RHOST" > ' + str(tmp_path / "asked") + "\n"
        '[ "$given" = "sécret" ]\n'
    )
    script.chmod(0o755)
    stack(
        f"auth required pam_exec.so expose_authtok quiet {script}",
        "account required pam_permit.so",
    )
    assert ask("eve", password, "10.0.0.1") is fine
    assert (tmp_path / "asked").read_text() == "eve 10.0.0.1\n"


class Prompts:
    """Messages as a PAM module sends them."""

    def __init__(self, *messages: tuple[int, bytes]) -> None:
        self.items = [pam.Message(style, text) for style, text in messages]
        kind = ctypes.POINTER(pam.Message) * len(self.items)
        self.array = kind(*[ctypes.pointer(item) for item in self.items])
        self.answers = ctypes.c_void_p()

    def run(self, session: pam.Session) -> int:
        pointer = ctypes.cast(self.array, ctypes.POINTER(ctypes.POINTER(pam.Message)))
        return session.converse(
            len(self.items), pointer, ctypes.pointer(self.answers), None
        )

    def texts(self) -> list[bytes | None]:
        """The answers, freed as PAM frees them."""
        libc = ctypes.CDLL(None)
        libc.free.argtypes = [ctypes.c_void_p]
        block = ctypes.cast(self.answers, ctypes.POINTER(pam.Response))
        found = []
        for index in range(len(self.items)):
            text = block[index].text
            found.append(None if text is None else ctypes.string_at(text))
            libc.free(text)
        libc.free(self.answers)
        return found


@pytest.fixture
def session(stack: Any) -> pam.Session:
    libraries = pam.libraries()
    assert libraries is not None
    return pam.Session(libraries, b"secret")


def test_prompts_that_are_not_echoed_get_the_password(session: pam.Session) -> None:
    prompts = Prompts((pam.PAM_TEXT_INFO, b"hello"), (pam.PAM_PROMPT_ECHO_OFF, b"?"))
    assert prompts.run(session) == pam.PAM_SUCCESS
    assert prompts.texts() == [None, b"secret"]


def test_errors_of_modules_are_logged(session: pam.Session) -> None:
    prompts = Prompts((pam.PAM_ERROR_MSG, b"disk full"))
    assert prompts.run(session) == pam.PAM_SUCCESS
    assert prompts.texts() == [None]
    assert session.lines == ["pam_conversation(): PAM error: disk full"]


def test_password_is_not_typed_where_it_would_be_shown(session: pam.Session) -> None:
    prompts = Prompts((2, b"Verification code:"))  # PAM_PROMPT_ECHO_ON
    assert prompts.run(session) == pam.PAM_CONV_ERR
    assert not prompts.answers


def test_without_libpam_everybody_is_refused(
    monkeypatch: pytest.MonkeyPatch, logged: Lines
) -> None:
    monkeypatch.setattr(pam, "libraries", lambda: None)
    assert not ask()
    assert logged.take() == ["WARNING pam_start() failed: libpam was not found"]
