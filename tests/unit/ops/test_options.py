"""The command line; the complaints are those of the real program's getopt."""

import pytest

from bouncer.options import Options, UsageError, parse


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a.ini", Options(config="a.ini")),
        ("-d a.ini", Options(config="a.ini", daemon=True)),
        ("a.ini -q -d", Options(config="a.ini", daemon=True, quiet=True)),
        ("-dqR a.ini", Options(config="a.ini", daemon=True, quiet=True, reboot=True)),
        ("-v -vv a.ini", Options(config="a.ini", verbose=3)),
        ("-u pg a.ini", Options(config="a.ini", user="pg")),
        ("-upg a.ini", Options(config="a.ini", user="pg")),
        ("-qupg a.ini", Options(config="a.ini", quiet=True, user="pg")),
        ("--user pg a.ini", Options(config="a.ini", user="pg")),
        ("--us=pg a.ini", Options(config="a.ini", user="pg")),
        (
            "--rebo --quie --dae --verb a.ini",
            Options(config="a.ini", reboot=True, quiet=True, daemon=True, verbose=1),
        ),
        ("-- -h", Options(config="-h")),
        ("-", Options(config="-")),
        ("-h", Options(show="help")),
        ("a b -V -X", Options(show="version")),
        ("-qh", Options(show="help")),
        ("-Vh", Options(show="version")),
        ("--vers", Options(show="version")),
        ("--check a.ini", Options(config="a.ini", show="check")),
        ("a.ini --explain", Options(config="a.ini", show="explain")),
    ],
)
def test_options(line: str, expected: Options) -> None:
    assert parse(line.split()) == expected


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "no configuration file specified"),
        ("a b", "no configuration file specified"),
        ("--", "no configuration file specified"),
        ("-qX a.ini", "invalid option -- 'X'"),
        ("-d-h", "invalid option -- '-'"),
        ("-W foo -h", "invalid option -- 'W'"),
        ("--foo", "unrecognized option '--foo'"),
        ("--foo=1", "unrecognized option '--foo=1'"),
        ("-u", "option requires an argument -- 'u'"),
        ("-qu", "option requires an argument -- 'u'"),
        ("--user", "option '--user' requires an argument"),
        ("--us", "option '--user' requires an argument"),
        ("--verbose=3", "option '--verbose' doesn't allow an argument"),
        ("--q=1", "option '--quiet' doesn't allow an argument"),
        (
            "--ver=1",
            "option '--ver=1' is ambiguous; possibilities: '--verbose' '--version'",
        ),
    ],
)
def test_complaints(line: str, complaint: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(line.split())
    assert str(refused.value) == complaint
