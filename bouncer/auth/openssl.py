"""What OpenSSL can and Python's ssl module does not expose.

TLS 1.3 cipher suites, curves by any name, automatic DH parameters and a strict ALPN
choice are functions of an SSL_CTX, and every `ssl.SSLContext` is a thin wrapper
around one: its pointer stands right behind the object header (CPython, since 3.2).
`Native` reaches it through the very library that the ssl module is linked with, and
checks that it has found the right thing before it uses it. The same holds for the
SSL of a connection, which knows the group of its key exchange. Where that is impossible
`native` gives None, and the caller refuses what was asked for rather than ignore it.
"""

from __future__ import annotations

import _ssl
import ctypes
import ssl
import sys
from collections.abc import Callable
from typing import Any

# openssl/ssl.h
SSL_CTRL_SET_GROUPS_LIST = 92
SSL_CTRL_SET_DH_AUTO = 118
SSL_CTRL_GET_PEER_TMP_KEY = 109
SSL_CTRL_GET_NEGOTIATED_GROUP = 134
SSL_TLSEXT_ERR_OK = 0
SSL_TLSEXT_ERR_ALERT_FATAL = 2

# The layout is looked up, not guessed, for these only.
KNOWN_LAYOUT = sys.implementation.name == "cpython" and sys.version_info < (3, 15)

AlpnChoice = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,  # SSL *
    ctypes.POINTER(ctypes.c_void_p),  # const unsigned char **out
    ctypes.POINTER(ctypes.c_ubyte),  # unsigned char *outlen
    ctypes.c_void_p,  # const unsigned char *in
    ctypes.c_uint,  # inlen
    ctypes.c_void_p,
)


class Native:
    """The SSL_CTX of one context."""

    def __init__(self, library: ctypes.CDLL, pointer: int) -> None:
        self._library = library
        self._pointer = ctypes.c_void_p(pointer)

    def set_ciphersuites(self, names: str) -> bool:
        """Choose the suites of TLS 1.3; False when OpenSSL knows none of them."""
        return bool(
            self._library.SSL_CTX_set_ciphersuites(self._pointer, names.encode())
        )

    def set_groups(self, names: str) -> bool:
        """Choose the curves for the key exchange; False for an unknown name."""
        return bool(
            self._library.SSL_CTX_ctrl(
                self._pointer, SSL_CTRL_SET_GROUPS_LIST, 0, names.encode()
            )
        )

    def set_dh_auto(self) -> None:
        """Offer finite-field DH with parameters that fit the key."""
        self._library.SSL_CTX_ctrl(self._pointer, SSL_CTRL_SET_DH_AUTO, 1, None)

    def require_alpn(self, protocol: bytes) -> Any:
        """Refuse a peer that offers protocols, but not *protocol*.

        Gives what must live as long as the context.
        """
        wanted = ctypes.create_string_buffer(protocol, len(protocol))
        at = ctypes.addressof(wanted)

        def choose(
            _ssl_pointer: int, out: Any, size: Any, offered: int, length: int, _arg: int
        ) -> int:
            if protocol not in offers(ctypes.string_at(offered, length)):
                return SSL_TLSEXT_ERR_ALERT_FATAL
            out[0] = at
            size[0] = len(protocol)
            return SSL_TLSEXT_ERR_OK

        callback = AlpnChoice(choose)
        self._library.SSL_CTX_set_alpn_select_cb(self._pointer, callback, None)
        return wanted, callback


def offers(data: bytes) -> list[bytes]:
    """List the protocols of an ALPN offer: each with its length in front."""
    found = []
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        found.append(data[at + 1 : end])
        at = end
    return found


def _find_library() -> ctypes.CDLL | None:
    """Give a handle through which the ssl module's own OpenSSL is found."""
    try:
        library = ctypes.CDLL(_ssl.__file__)
        options = library.SSL_CTX_get_options
        library.SSL_CTX_set_ciphersuites.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.SSL_CTX_set_alpn_select_cb.argtypes = [
            ctypes.c_void_p,
            AlpnChoice,
            ctypes.c_void_p,
        ]
        library.SSL_CTX_set_alpn_select_cb.restype = None
        control: Callable[..., Any] = library.SSL_CTX_ctrl
        library.SSL_get_SSL_CTX.argtypes = [ctypes.c_void_p]
        library.SSL_get_SSL_CTX.restype = ctypes.c_void_p
        library.SSL_ctrl.argtypes = [
            ctypes.c_void_p,
            ctypes.c_int,
            ctypes.c_long,
            ctypes.c_void_p,
        ]
        library.SSL_ctrl.restype = ctypes.c_long
        library.OBJ_nid2sn.argtypes = [ctypes.c_int]
        library.OBJ_nid2sn.restype = ctypes.c_char_p
        library.EVP_PKEY_get_bits.argtypes = [ctypes.c_void_p]
        library.EVP_PKEY_free.argtypes = [ctypes.c_void_p]
        library.EVP_PKEY_free.restype = None
    except (AttributeError, OSError):
        return None
    options.argtypes = [ctypes.c_void_p]
    options.restype = ctypes.c_uint64
    control.argtypes = [  # type: ignore[attr-defined]
        ctypes.c_void_p,
        ctypes.c_int,
        ctypes.c_long,
        ctypes.c_char_p,
    ]
    control.restype = ctypes.c_long  # type: ignore[attr-defined]
    return library


_library = _find_library() if KNOWN_LAYOUT else None


def native(context: ssl.SSLContext) -> Native | None:
    """Reach the SSL_CTX of *context*; None where that is not possible."""
    pointer = _context_pointer(context)
    if _library is None or not pointer:
        return None
    if _library.SSL_CTX_get_options(pointer) != context.options:
        return None
    return Native(_library, pointer)


def _context_pointer(context: ssl.SSLContext) -> int | None:
    if _library is None:
        return None
    return ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value


def key_exchange(connection: ssl.SSLObject) -> str:
    """Name the group of an ephemeral key exchange: `ECDH=X25519`, `DH=2048`, "".

    As PgBouncer shows it: for TLS 1.2 and below, where the cipher's name does not
    stand for one of a few groups only.
    """
    inner = getattr(connection, "_sslobj", None)
    if _library is None or inner is None or connection.version() == "TLSv1.3":
        return ""
    # Behind the object header: the Python socket, then SSL *.
    at = id(inner) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)
    pointer = ctypes.c_void_p.from_address(at).value
    if not pointer or _library.SSL_get_SSL_CTX(pointer) != _context_pointer(
        connection.context
    ):
        return ""
    cipher = connection.cipher()
    if cipher is not None and cipher[0].startswith("DHE-"):
        return _dh_bits(_library, pointer)
    group = _library.SSL_ctrl(pointer, SSL_CTRL_GET_NEGOTIATED_GROUP, 0, None)
    name: bytes | None = _library.OBJ_nid2sn(group) if 0 < group < 1 << 24 else None
    return f"ECDH={name.decode()}" if name else ""


def _dh_bits(library: ctypes.CDLL, pointer: int) -> str:
    key = ctypes.c_void_p()
    if not library.SSL_ctrl(pointer, SSL_CTRL_GET_PEER_TMP_KEY, 0, ctypes.byref(key)):
        return ""
    bits = library.EVP_PKEY_get_bits(key)
    library.EVP_PKEY_free(key)
    return f"DH={bits}"
