"""Check a password with PAM, service `pgbouncer`: authentication and account.

PAM blocks for as long as its modules like, so it runs in one thread, first come,
first served; who waits costs the event loop nothing and is bounded by the login
timeout. libpam is reached with ctypes: its interface is four functions and one
conversation, in which the answer to a prompt that is not echoed is the password.
"""

from __future__ import annotations

import asyncio
import ctypes
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from bouncer import log
from bouncer.wire.messages import encode_text

SERVICE = b"pgbouncer"

# security/_pam_types.h
PAM_SUCCESS = 0
PAM_BUF_ERR = 5
PAM_CONV_ERR = 19
PAM_RHOST = 4
PAM_PROMPT_ECHO_OFF = 1
PAM_ERROR_MSG = 3
PAM_TEXT_INFO = 4
PAM_MAX_NUM_MSG = 32


class Message(ctypes.Structure):
    """struct pam_message."""

    _fields_ = (("style", ctypes.c_int), ("text", ctypes.c_char_p))


class Response(ctypes.Structure):
    """struct pam_response; PAM frees both it and its text."""

    _fields_ = (("text", ctypes.c_void_p), ("retcode", ctypes.c_int))


Conversation = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.POINTER(Message)),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)


class Conv(ctypes.Structure):
    """struct pam_conv."""

    _fields_ = (("talk", Conversation), ("data", ctypes.c_void_p))


class Libraries:
    """libpam and the C library whose memory it frees."""

    def __init__(self, pam: ctypes.CDLL) -> None:
        libc = ctypes.CDLL(None)
        self.calloc = libc.calloc
        self.calloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        self.calloc.restype = ctypes.c_void_p
        self.strdup = libc.strdup
        self.strdup.argtypes = [ctypes.c_char_p]
        self.strdup.restype = ctypes.c_void_p
        handle = ctypes.c_void_p
        self.start = pam.pam_start
        self.start.argtypes = [
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.POINTER(Conv),
            ctypes.POINTER(handle),
        ]
        self.set_item = pam.pam_set_item
        self.set_item.argtypes = [handle, ctypes.c_int, ctypes.c_char_p]
        self.authenticate = pam.pam_authenticate
        self.authenticate.argtypes = [handle, ctypes.c_int]
        self.acct_mgmt = pam.pam_acct_mgmt
        self.acct_mgmt.argtypes = [handle, ctypes.c_int]
        self.end = pam.pam_end
        self.end.argtypes = [handle, ctypes.c_int]
        self._strerror = pam.pam_strerror
        self._strerror.argtypes = [handle, ctypes.c_int]
        self._strerror.restype = ctypes.c_char_p

    def text(self, handle: Any, code: int) -> str:
        """Say what an error code means."""
        found: bytes | None = self._strerror(handle, code)
        return found.decode("utf-8", "replace") if found else str(code)


@cache
def libraries() -> Libraries | None:
    """Load libpam, when somebody needs it; None when there is none."""
    for name in ("libpam.so.0", "libpam.so", "libpam.dylib"):
        try:
            return Libraries(ctypes.CDLL(name))
        except (OSError, AttributeError):
            continue
    return None


_thread = ThreadPoolExecutor(1, "pam")

# Bytes. Tokens are long, but some modules hash a password thousands of times, and all
# others wait meanwhile.
LONGEST_PASSWORD = 8192


async def authenticate(user: str, password: bytes, address: str) -> bool:
    """Say whether PAM accepts *user*; *address* is where the client is ("" unknown)."""
    if len(password) > LONGEST_PASSWORD:
        log.warning(f"PAM is not asked about more than {LONGEST_PASSWORD} bytes")
        return False
    loop = asyncio.get_running_loop()
    accepted, lines = await loop.run_in_executor(
        _thread, check, encode_text(user), password, address.encode()
    )
    for line in lines:
        log.warning(line)
    return accepted


def check(user: bytes, password: bytes, address: bytes) -> tuple[bool, list[str]]:
    """Ask PAM; gives the verdict and lines for the log. Blocks."""
    pam = libraries()
    if pam is None:
        return False, ["pam_start() failed: libpam was not found"]
    session = Session(pam, password)
    return session.run(user, address), session.lines


class Session:
    """One check."""

    def __init__(self, libraries: Libraries, password: bytes) -> None:
        self.pam = libraries
        self.password = password
        self.lines: list[str] = []

    def run(self, user: bytes, address: bytes) -> bool:
        """Go through PAM's steps; True when all of them succeed."""
        pam = self.pam
        handle = ctypes.c_void_p()
        talk = Conversation(self.converse)
        conv = Conv(talk, None)
        code = pam.start(SERVICE, user, ctypes.byref(conv), ctypes.byref(handle))
        if code != PAM_SUCCESS:
            self.lines.append(f"pam_start() failed: {pam.text(handle, code)}")
            return False
        code = self.judge(handle, address)
        ended = pam.end(handle, code)
        if ended != PAM_SUCCESS:
            self.lines.append(f"pam_end() failed: {pam.text(None, ended)}")
        return code == PAM_SUCCESS and ended == PAM_SUCCESS

    def judge(self, handle: Any, address: bytes) -> int:
        """Authenticate, then ask whether the account may be used."""
        pam = self.pam
        if address:
            code: int = pam.set_item(handle, PAM_RHOST, address)
            if code != PAM_SUCCESS:
                shown = address.decode()
                self.lines.append(f"pam_set_item(): can't set PAM_RHOST to '{shown}'")
                return code
        code = pam.authenticate(handle, 0)
        if code != PAM_SUCCESS:
            text = pam.text(handle, code)
            self.lines.append(f"pam_authenticate() failed: {text}")
            return code
        code = pam.acct_mgmt(handle, 0)
        if code != PAM_SUCCESS:
            self.lines.append(f"pam_acct_mgmt() failed: {pam.text(handle, code)}")
        return code

    def converse(self, count: int, messages: Any, answers: Any, _data: Any) -> int:
        """Answer what PAM asks: prompts get the password."""
        if not 0 < count <= PAM_MAX_NUM_MSG:
            return PAM_CONV_ERR
        for index in range(count):
            message = messages[index].contents
            if message.style == PAM_ERROR_MSG:
                text = (message.text or b"").decode("utf-8", "replace")
                self.lines.append(f"pam_conversation(): PAM error: {text}")
            elif message.style not in (PAM_PROMPT_ECHO_OFF, PAM_TEXT_INFO):
                return PAM_CONV_ERR
        block = self.pam.calloc(count, ctypes.sizeof(Response))
        if not block:
            return PAM_BUF_ERR
        responses = ctypes.cast(block, ctypes.POINTER(Response))
        for index in range(count):
            if messages[index].contents.style == PAM_PROMPT_ECHO_OFF:
                responses[index].text = self.pam.strdup(self.password)
        answers[0] = block
        return PAM_SUCCESS
