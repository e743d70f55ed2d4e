"""Compiled code never reaches through None: read off what Cython makes of the sources.

`nonecheck` turns such an access into an AttributeError, which ends one connection. Two
kinds of function are without: those that are `noexcept`, where the error would be lost
and 0 given back, and the hot ones, which cannot afford it and opt out.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import compiled, extensions
from tests.support.compiled import Function

ROOT = Path(__file__).resolve().parents[1]
GIVEN = "whoever makes a stream gives its poller; it is never taken away"
OWN_LIST = "made in __init__, readonly"
LEDGER = "made in __init__, never taken away"
CALLER = "an argument: each caller passes itself, or what it has looked at"
LOOKED = "looked at in this function before"
LOGGED_IN = "Client.relay, through which all come, has looked"

# What a function that opts out reaches through unchecked, and why that is never None.
NEVER_NONE = {
    "client.Client.take": {"self.door": "`come` has looked; never taken away"},
    "client.Client.relay": {
        "poller": GIVEN,
        "server": LOOKED,
        "server.ledger": LEDGER,
        "self.pool": LOOKED,
        "self.server": LOOKED,
    },
    "client.Client.pass_on": {"server": LOOKED},
    "client.Client.begin_request": {"self.poller": GIVEN, "self.pool": LOGGED_IN},
    "client.Client.statement_message": {
        "self.pool": LOGGED_IN,
        "self.server": "Pool.acquire has said LINKED",
    },
    "client.Client.change_unnamed": {
        "server": CALLER,
        "server.ledger": LEDGER,
        "before": LOOKED,
    },
    "poller.Poller.serve_event": {"stream": "a slot in use has one"},
    "pool.Pool.acquire": {
        "client": CALLER,
        "self.waiting": OWN_LIST,
        "self.idle": OWN_LIST,
        "server": LOOKED,
        "client.server": LOOKED,
    },
    "pool.Pool.link": {
        "client": CALLER,
        "server": CALLER,
        "self.poller": GIVEN,
        "self.clients": OWN_LIST,
        "self.active": OWN_LIST,
    },
    "pool.Pool.release": {"server": CALLER, "client": LOOKED},
    "pool.Pool.settle": {
        "server": CALLER,
        "self.poller": GIVEN,
        "self.waiting": OWN_LIST,
        "self.idle": OWN_LIST,
    },
    "server.Server.on_events": {"self.poller": GIVEN},
    "server.Server.relay": {
        "poller": GIVEN,
        "self.poller": GIVEN,
        "self.poller.later": "a list from the start",
        "self.pool": "Server is made with one; never taken away",
        "7bouncer_5relay_5texts_TOO_MANY": "a constant of the module",
        "ledger": LEDGER,
        "self.reworded": LOOKED,
        "client": LOOKED,
    },
    "server.Server.pass_on": {"client": CALLER},
    "server.Server.answer_fakes": {"client": LOOKED, "self.ledger": LEDGER},
    "server.Server.is_clean": {"self.ledger": LEDGER},
    "server.Server.owe": {"self.ledger": LEDGER},
    "server.Server.settle_ready": {"ledger": LEDGER},
    "stream.Stream.on_events": {"self.poller": GIVEN},
    "stream.Stream.on_readable": {"poller": GIVEN},
    "stream.Stream.resume_reading": {"self.poller": GIVEN},
    "stream.Stream.push": {"self.poller": GIVEN},
    "stream.StreamList.push_head": {
        "stream": CALLER,
        "stream.home": LOOKED,
        "self.head": LOOKED,
    },
    "stream.StreamList.push_tail": {
        "stream": CALLER,
        "stream.home": LOOKED,
        "self.tail": LOOKED,
    },
    "stream.StreamList.drop": {"stream": CALLER, "before": LOOKED, "after": LOOKED},
}


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The C of every function of the relay, by the end of its name, all checks in."""
    text = compiled.strict_c(tmp_path_factory.mktemp("strict"))
    return dict(compiled.c_functions(text))


def body_of(function: Function, functions: dict[str, str]) -> Iterator[str]:
    """The C of *function*; none of an inline one that nobody calls."""
    for name, body in functions.items():
        if name.endswith(function.in_c):
            yield body


def test_every_compiled_source_is_checked_against_none():
    """The directive stands in the first line of each source with extension classes."""
    missing = [
        str(path.relative_to(ROOT))
        for path in map(ROOT.joinpath, extensions.sources(ROOT))
        if (path.suffix == ".pyx" or path.with_suffix(".pxd").exists())
        and "nonecheck=True" not in path.read_text().split("\n", 1)[0]
    ]
    assert not missing


@pytest.mark.timeout(300)
def test_function_that_cannot_raise_reaches_through_nothing_but_itself(functions):
    """In a noexcept function the check would be swallowed, and 0 be the answer."""
    wrong, seen = [], 0
    for function in sorted(compiled.noexcept_functions()):
        for body in body_of(function, functions):
            seen += 1
            checks = list(compiled.checked(body))
            wrong += [
                f"{function}: {whose}.{what}"
                for whose, what in checks
                if whose != "self"
            ]
            if len(compiled.RAISES.findall(body)) != len(checks):
                wrong.append(f"{function}: something in it raises")
    assert not wrong
    assert seen > 20, "hardly any function was found in the C"


@pytest.mark.timeout(300)
def test_function_that_opts_out_reaches_only_through_what_is_never_none(functions):
    unexplained = []
    for function in sorted(compiled.unchecked_functions()):
        bodies = list(body_of(function, functions))
        assert bodies, f"{function} is not in the C"
        reached = {whose for body in bodies for whose, _ in compiled.checked(body)}
        known = NEVER_NONE.get(str(function), {})
        unexplained += [
            f"{function}: {whose}" for whose in reached - {"self"} - set(known)
        ]
    assert not unexplained


def test_every_function_that_opts_out_is_in_the_table():
    found = {str(function) for function in compiled.unchecked_functions()}
    assert set(NEVER_NONE) <= found


def test_checks_are_found_where_they_are(tmp_path):
    """The reading of the C itself: of a class that does everything wrong."""
    source = tmp_path / "wrong.pyx"
    source.write_text(
        "# cython: language_level=3, nonecheck=True\n"
        "cdef class Wrong:\n"
        "    cdef Wrong other\n"
        "    cdef int number\n"
        "    cdef int call(self) noexcept:\n"
        "        return self.other.other.number + self.other.call()\n"
    )
    functions = dict(compiled.c_functions(compiled.cython([source], tmp_path)))
    (body,) = body_of(Function("wrong", "Wrong", "call"), functions)
    reached = {whose for whose, _ in compiled.checked(body)}
    assert reached == {"self", "self.other", "self.other.other"}
