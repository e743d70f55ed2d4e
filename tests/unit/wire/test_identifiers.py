"""Values of search_path: what PostgreSQL takes, and how it is written in a SET."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bouncer.wire.identifiers import is_list, quoted_list


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (b"p1s", b"p1s"),
        (b"mine, public", b"mine, public"),
        (b'"$user", public', b'"$user", public'),
        (b"$user,public", b'"$user", public'),
        (b"Foo", b"foo"),
        (b'"Foo"', b'"Foo"'),
        (b"foo-bar", b'"foo-bar"'),
        (b"1abc", b'"1abc"'),
        (b"it's", b'"it\'s"'),
        (b"user,select", b'"user", "select"'),
        (b"DEFAULT", b'"default"'),
        (b'a"b', b'"a""b"'),
        (b'"a""b"', b'"a""b"'),
        (b'"a,b" , c', b'"a,b", c'),
        (b"public;create/**/table/**/t(x/**/int)",
         b'"public;create/**/table/**/t(x/**/int)"'),
        (b"", b"''"),
        (b"  ", b"''"),
        (b'""', b"''"),
        (b'"",a', b"'', a"),
        ("É".encode(), "É".encode()),
        ('"É"'.encode(), '"É"'.encode()),
        ("é-É-X".encode(), '"é-É-X"'.encode()),
        (b"\x83\x5c", b'"\x83\x5c"'),
    ],
)  # fmt: skip
def test_identifiers_are_quoted_where_they_need_it(
    value: bytes, written: bytes
) -> None:
    assert is_list(value)
    assert quoted_list(value) == written


@pytest.mark.parametrize(
    "value",
    [
        b"a b", b"a,", b",a", b"a,,b", b'"a', b'"a"b', b"public; set role x", b",",
        b"pg_catalog; drop table x", b'"a" "b"', b"a\0b",
    ],
)  # fmt: skip
def test_what_is_no_list_is_not_written(value: bytes) -> None:
    assert not is_list(value)
    assert quoted_list(value) is None


WORDS = st.one_of(
    st.binary(max_size=6).filter(lambda b: b"\0" not in b),
    st.sampled_from([b'"', b'""', b",", b" ", b"'", b";", b"a", b"A", b"$user", b"--"]),
)


@given(st.lists(WORDS, max_size=12).map(b"".join))
@example(b"x" * 60000)
@example(b'"' + b'""' * 30000)
def test_what_is_written_stays_within_its_quotes(value: bytes) -> None:
    """SQL reads it as names and commas only, whatever the value was."""
    written = quoted_list(value)
    if written is None:
        return
    rest = written
    while rest:
        if rest.startswith(b"''"):
            rest = rest[2:]
        elif rest.startswith(b'"'):
            at = 1
            while rest[at : at + 1] != b'"' or rest[at : at + 2] == b'""':
                at += 2 if rest[at : at + 2] == b'""' else 1
                assert at < len(rest)
            rest = rest[at + 1 :]
        else:
            name = rest.split(b",")[0]
            assert name and all(
                c in b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_$0123456789"
                or c > 127
                for c in name
            )
            rest = rest[len(name) :]
        assert not rest or rest.startswith(b", ")
        rest = rest[2:]
