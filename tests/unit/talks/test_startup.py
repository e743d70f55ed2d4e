"""The startup packet: which parameters are kept, dropped, refused.

What `options` may look like was tried with PgBouncer 1.25.2.
"""

from typing import Any

import pytest

from bouncer.config.settings import Settings
from bouncer.errors import Disconnect
from bouncer.talks import startup as module
from bouncer.talks.startup import LOGICAL, PHYSICAL, read_startup, replication_kind
from tests.unit.talks.driver import FakeApp, FakeClient, Lines, startup

BAD_OPTIONS = (
    "unsupported options startup parameter: "
    "only '-c config=val' and '--config=val' are allowed"
)


def read(client: FakeClient, more: dict[str, str], **settings: Any) -> Any:
    body = startup(**more)[1]
    return read_startup(client, FakeApp(**settings).settings, body)


def reason(client: FakeClient, more: dict[str, str], **settings: Any) -> str:
    with pytest.raises(Disconnect) as error:
        read(client, more, **settings)
    assert error.value.notify and error.value.sqlstate == "08P01"
    return error.value.reason


def test_tracked_parameters_are_kept_under_their_canonical_names(
    client: FakeClient,
) -> None:
    more = {"datestyle": "german", "TIMEZONE": "Europe/Paris", "intervalstyle": "x"}
    read(client, more)
    assert client.startup_params == {
        "DateStyle": "german",
        "TimeZone": "Europe/Paris",
        "IntervalStyle": "x",
    }


def test_last_value_of_a_repeated_parameter_wins(client: FakeClient) -> None:
    body = b"\0\3\0\0user\0a\0user\0b\0timezone\0x\0TimeZone\0y\0\0"
    found = read_startup(client, Settings.defaults(), body)
    assert found.user == found.database == "b"
    assert client.startup_params == {"TimeZone": "y"}


def test_unknown_parameter_is_refused_and_logged_with_its_value(
    client: FakeClient, logged: Lines
) -> None:
    text = "unsupported startup parameter: work_mem"
    assert reason(client, {"work_mem": "evil"}) == text
    assert logged.take() == [f"WARNING C: (nodb)/(nouser) {text}=evil"]


@pytest.mark.parametrize("name", ["DATABASE", "USER", "OPTIONS", "Replication"])
def test_names_with_a_meaning_are_case_sensitive(client: FakeClient, name: str) -> None:
    assert reason(client, {name: "x"}) == f"unsupported startup parameter: {name}"


def test_long_name_is_cut_in_what_the_client_reads(client: FakeClient) -> None:
    text = reason(client, {"f" * 200: "x"})
    assert text == ("unsupported startup parameter: " + "f" * 200)[:127]


def test_ignore_startup_parameters_is_case_sensitive(client: FakeClient) -> None:
    settings = {"ignore_startup_parameters": "work_mem, extra_float_digits"}
    read(client, {"work_mem": "x", "extra_float_digits": "2"}, **settings)
    assert client.startup_params == {}
    assert reason(client, {"Work_mem": "x"}, **settings) == (
        "unsupported startup parameter: Work_mem"
    )


@pytest.mark.parametrize("between", [",", " ", "\t", " , ", "  "])
def test_ignored_names_stand_between_commas_or_blanks(
    client: FakeClient, between: str
) -> None:
    """Blanks made one name of all, and every client was refused."""
    settings = {"ignore_startup_parameters": f"work_mem{between}extra_float_digits"}
    read(client, {"extra_float_digits": "1", "work_mem": "1"}, **settings)
    assert client.startup_params == {}


def test_ignore_startup_parameters_wins_over_tracking(client: FakeClient) -> None:
    settings = {"ignore_startup_parameters": "search_path, TimeZone"}
    options = "-c search_path=y -c TimeZone=z"
    read(client, {"search_path": "x", "options": options}, **settings)
    assert client.startup_params == {}
    read(client, {"Search_path": "x", "timezone": "y"}, **settings)
    assert client.startup_params == {"search_path": "x", "TimeZone": "y"}


def test_changed_settings_count_at_once(client: FakeClient) -> None:
    read(client, {"work_mem": "x"}, ignore_startup_parameters="work_mem")
    assert reason(client, {"work_mem": "x"}).endswith("work_mem")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"\0", "no username supplied"),
        (b"user\0\0\0", "no username supplied"),
        (b"database\0p0\0\0", "no username supplied"),
        (b"", module._NO_TERMINATOR),
        (b"user\0u\0", module._NO_TERMINATOR),
        (b"user\0u", module._NO_TERMINATOR),
        (b"user\0u\0\0x", module._NO_TERMINATOR),
        (b"user\0u\0\0\0", module._NO_TERMINATOR),
        (b"user\0u\0timezone", module._NO_TERMINATOR),
        # The first thing wrong in the packet is what is reported.
        (b"user\0u\0foo\0x\0", "unsupported startup parameter: foo"),
        (b"foo\0x\0\0", "unsupported startup parameter: foo"),
    ],
)
def test_broken_packet_is_refused(client: FakeClient, body: bytes, text: str) -> None:
    with pytest.raises(Disconnect) as error:
        read_startup(client, Settings.defaults(), b"\0\3\0\0" + body)
    assert error.value.reason == text


def test_database_defaults_to_the_user(client: FakeClient) -> None:
    found = read_startup(client, Settings.defaults(), startup("ann", None)[1])
    assert (found.user, found.database) == ("ann", "ann")
    found = read_startup(client, Settings.defaults(), startup("ann", "")[1])
    assert found.database == "ann"


# Protocol versions


def test_newer_minor_versions_are_negotiated_down(client: FakeClient) -> None:
    for minor in (1, 2, 9999):
        body = startup(version=0x30000 + minor)[1]
        found = read_startup(client, Settings.defaults(), body)
        assert found.negotiation == b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0"


def test_unknown_protocol_options_are_named(client: FakeClient) -> None:
    found = read(client, {"_pq_.foo": "1", "_pq_.bar": "2"})
    assert found.negotiation == (b"v\0\0\0\x1e\0\x03\0\0\0\0\0\x02_pq_.foo\0_pq_.bar\0")
    assert read(client, {}).negotiation == b""


def test_only_the_exact_prefix_makes_a_protocol_option(client: FakeClient) -> None:
    assert reason(client, {"_PQ_.x": "1"}).endswith(": _PQ_.x")
    assert reason(client, {"_pq_x": "1"}).endswith(": _pq_x")


# Replication


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        (b"database", LOGICAL),
        (b"true", PHYSICAL),
        (b"on", PHYSICAL),
        (b"yes", PHYSICAL),
        (b"1", PHYSICAL),
        (b"TRUE", PHYSICAL),
        (b"false", 0),
        (b"off", 0),
        (b"no", 0),
        (b"0", 0),
        (b"", 0),
        (b"banana", 0),
        (b"DATABASE", 0),
    ],
)
def test_replication_word(word: bytes, kind: int) -> None:
    assert replication_kind(word) == kind


def test_replication_keeps_options_whole_wherever_it_stands(
    client: FakeClient,
) -> None:
    read(client, {"options": "-c foo=bar", "replication": "database"})
    assert client.replication == LOGICAL
    assert client.startup_options == "-c foo=bar"
    read(client, {"replication": "true", "options": "-f"})
    assert client.startup_options == "-f"
    # and what a first packet asked for is forgotten with a second one
    read(client, {})
    assert client.replication == 0 and client.startup_options is None


def test_replication_client_may_not_name_other_parameters(client: FakeClient) -> None:
    more = {"replication": "true", "foo": "bar"}
    assert reason(client, more) == "unsupported startup parameter: foo"


# options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {}),
        ("-c timezone=a", {"TimeZone": "a"}),
        (" -c timezone=a", {"TimeZone": "a"}),
        ("-c  timezone=a", {"TimeZone": "a"}),
        ("-ctimezone=a", {"TimeZone": "a"}),
        ("--timezone=a", {"TimeZone": "a"}),
        ("--TimeZone=a", {"TimeZone": "a"}),
        ("-c timezone=a  -c datestyle=b", {"TimeZone": "a", "DateStyle": "b"}),
        ("-c timezone=", {"TimeZone": ""}),
        ("-c timezone=a=b", {"TimeZone": "a=b"}),
        ("-c timezone=a\\ b", {"TimeZone": "a b"}),
        ("-c time\\zone=a", {"TimeZone": "a"}),
        ("-c timezone=a\\\\b", {"TimeZone": "a\\b"}),
        ("-c timezone=a\\", {"TimeZone": "a"}),
        ("-c timezone=é", {"TimeZone": "é"}),
        ("-ctimezone=a -c timezone=b", {"TimeZone": "b"}),
        ("--extra_float_digits=2", {}),
    ],
)
def test_options_are_taken_apart(
    client: FakeClient, options: str, expected: dict[str, str]
) -> None:
    settings = {"ignore_startup_parameters": "extra_float_digits"}
    read(client, {"options": options}, **settings)
    assert client.startup_params == expected


def test_parameter_of_the_packet_wins_over_options_wherever_they_stand(
    client: FakeClient,
) -> None:
    """The later of the two won, as in PgBouncer: lib/pq, whose order is that of a hash,
    got SQL_ASCII from its `options` now and then instead of its own UTF8."""
    own = {"client_encoding": "UTF8", "Application_Name": "own"}
    options = {
        "options": "-c client_encoding=SQL_ASCII --application_name=o -c TimeZone=x"
    }
    for given in ({**own, **options}, {**options, **own}):
        read(client, given)
        assert client.startup_params == {
            "client_encoding": "UTF8",
            "application_name": "own",
            "TimeZone": "x",
        }
    read(client, {"options": "-c TimeZone=x -c timezone=y"})
    assert client.startup_params == {"TimeZone": "y"}


@pytest.mark.parametrize(
    "options",
    [
        " ",
        "-c timezone=a ",
        "-c timezone",
        "-c",
        "-c ",
        "--",
        "-d 5",
        "-f",
        "timezone=a",
        "-c\ttimezone=a",
        "-c timezone=a\t-c datestyle=b",
        "-c timezone=a -- datestyle=b",
        "-c timezone=a -c",
        "-c timezone=a --datestyle=b -f",
        "--c timezone=a",
    ],
)
def test_other_switches_are_refused(client: FakeClient, options: str) -> None:
    assert reason(client, {"options": options}) == BAD_OPTIONS
    settings = {"ignore_startup_parameters": "options"}
    assert reason(client, {"options": options}, **settings) == BAD_OPTIONS


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ("--time-zone=a", "time-zone"),
        ("-c foo=bar -c timezone=a", "foo"),
        ("-c Extra_Float_Digits=1", "Extra_Float_Digits"),
        ("---timezone=a", "-timezone"),
        ("-c options=a", "options"),
        ("-c work_mem=evil", "work_mem"),
        # PgBouncer 1.25.2 never comes back from this one.
        ("-c =a", ""),
    ],
)
def test_unknown_setting_in_options_is_refused(
    client: FakeClient, options: str, name: str
) -> None:
    text = f"unsupported startup parameter in options: {name}"
    ignored = {"ignore_startup_parameters": "extra_float_digits"}
    assert reason(client, {"options": options}, **ignored) == text
    read(client, {"options": options}, ignore_startup_parameters="options")


# application_name_add_host


def test_application_name_add_host_adds_where_the_client_is(
    client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"application_name_add_host": 1}
    read(client, {"application_name": "foo"}, **settings)
    assert client.startup_params["application_name"] == "foo - 127.0.0.1:4711"
    read(client, {}, **settings)
    assert client.startup_params["application_name"] == "app - 127.0.0.1:4711"
    client.peer_address = "::1"
    read(client, {}, **settings)
    assert client.startup_params["application_name"] == "app - [::1]:4711"
    client.is_unix, client.peer_pid = True, 99
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    read(client, {}, **settings, listen_port=6432)
    assert client.startup_params["application_name"] == "app - unix(99@here):6432"


def test_same_packet_says_the_same_until_the_settings_change() -> None:
    settings = FakeApp(ignore_startup_parameters="extra").settings
    body = startup(extra="1", TimeZone="UTC")[1]
    first, second = FakeClient(), FakeClient()
    assert read_startup(first, settings, body) is read_startup(second, settings, body)
    assert second.startup_params == {"TimeZone": "UTC"}
    with pytest.raises(Disconnect, match="unsupported startup parameter: extra"):
        read_startup(FakeClient(), FakeApp().settings, body)


def test_host_is_added_for_each_client_of_one_packet() -> None:
    settings = FakeApp(application_name_add_host=1).settings
    body = startup(application_name="app")[1]
    names = []
    for port in (1001, 1002):
        client = FakeClient()
        client.peer_address, client.peer_port = "192.0.2.7", port
        read_startup(client, settings, body)
        names.append(client.startup_params["application_name"])
    assert names == ["app - 192.0.2.7:1001", "app - 192.0.2.7:1002"]


def test_packets_that_are_remembered_are_few_and_short() -> None:
    settings = FakeApp().settings
    for number in range(2 * module.MAX_KNOWN):
        read_startup(FakeClient(), settings, startup(TimeZone=str(number))[1])
    read_startup(FakeClient(), settings, startup(TimeZone="x" * 2000)[1])
    known = module.rules_of(settings).known
    assert 0 < len(known) <= module.MAX_KNOWN
    assert max(map(len, known)) <= module.LONGEST_KNOWN
