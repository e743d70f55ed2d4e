"""A search_path that is no list of identifiers does not get in."""

from collections.abc import Iterator
from typing import Any

import pytest

from bouncer.errors import Disconnect
from bouncer.talks import startup as module
from bouncer.talks.startup import check_values, read_startup
from tests.unit.talks.driver import FakeApp, FakeClient, startup


@pytest.fixture(autouse=True)
def rules_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "_rules", None)
    yield
    module._rules = None


def read(client: FakeClient, more: dict[str, str]) -> Any:
    start = read_startup(client, FakeApp().settings, startup(**more)[1])
    check_values(start)
    return start


@pytest.mark.parametrize("value", ["public; set role x", "a b", '"a', "a,,b"])
@pytest.mark.parametrize("as_option", [False, True])
def test_bad_search_path_is_refused_with_postgresqls_words(
    client: FakeClient, value: str, as_option: bool
) -> None:
    more = {"search_path": value}
    if as_option:
        more = {"options": "-c search_path=" + value.replace(" ", "\\ ")}
    with pytest.raises(Disconnect) as error:
        read(client, more)
    assert error.value.reason == f'invalid value for parameter "search_path": "{value}"'
    assert error.value.sqlstate == "22023" and error.value.notify


@pytest.mark.parametrize("value", ['"$user", public', "foo-bar", "", "p1s"])
def test_good_search_path_is_kept_as_it_is(client: FakeClient, value: str) -> None:
    read(client, {"search_path": value})
    assert client.startup_params == {"search_path": value}
