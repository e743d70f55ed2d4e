"""The console's rows as Prometheus text."""

import asyncio
import re

import pytest

from admin import metrics
from admin.metrics import LISTS, render
from bouncer.snapshot import PoolRow
from tests.unit.admin.talking import FakeApp

SAMPLE = re.compile(r'[a-z_]+(\{([a-z_]+="(\\.|[^"\\\n])*",?)+\})? -?\d+(\.\d+)?')


def app() -> FakeApp:
    found = FakeApp()
    found.lists = lambda: [(name, 3) for name in LISTS]  # type: ignore[method-assign]
    return found


def test_every_line_is_a_comment_or_a_sample() -> None:
    text = render(app())
    assert text.endswith("\n")
    for line in text.splitlines():
        assert re.match(r"# (HELP|TYPE) pgbouncer_", line) or SAMPLE.fullmatch(line)


def test_samples_follow_their_type_and_no_family_comes_twice() -> None:
    family = ""
    seen = []
    for line in render(app()).splitlines():
        if line.startswith("# TYPE"):
            family = line.split()[2]
            seen.append(family)
            assert line.endswith("counter") == family.endswith("_total")
        elif not line.startswith("#"):
            assert re.split(r"[ {]", line)[0] == family
    assert len(seen) == len(set(seen))


def test_times_are_seconds_and_counts_are_whole() -> None:
    text = render(app())
    assert 'pgbouncer_stats_queries_pooled_total{database="bench"} 3\n' in text
    query_time = 'pgbouncer_stats_queries_duration_seconds_total{database="bench"}'
    assert f"{query_time} 0.000007\n" in text
    maxwait = 'pgbouncer_pools_client_maxwait_seconds{database="bench",user="u"}'
    assert f"{maxwait} 12.000013\n" in text


def test_names_are_escaped() -> None:
    found = app()
    found.pool_rows = lambda: [  # type: ignore[method-assign]
        PoolRow('a"b\\c\nd', "\udcff", *[0] * 11, 0, "session", None)
    ]
    assert 'database="a\\"b\\\\c\\nd",user="\ufffd"' in render(found)


def test_database_has_the_pool_mode_that_it_inherits() -> None:
    """The label was empty, as the console's column is."""
    found = app()
    found.settings = found.settings.with_value("pool_mode", "transaction")
    [row] = [one for one in found.database_rows() if one.name == "bench"]
    rows = [row._replace(pool_mode=None), row._replace(name="own", pool_mode="session")]
    found.database_rows = lambda: rows  # type: ignore[method-assign]
    size = re.compile(
        r'pgbouncer_databases_pool_size\{name="(\w+)".*pool_mode="(\w*)"\}'
    )
    assert size.findall(render(found)) == [("bench", "transaction"), ("own", "session")]


def test_mode_tells_what_the_pooler_does() -> None:
    found = app()
    found.global_mode = "pause"
    assert 'pgbouncer_mode{mode="pause"} 1\n' in render(found)
    assert 'pgbouncer_mode{mode="none"} 0\n' in render(found)


def test_many_pools_are_written_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SLICE", 0.0)
    found = app()
    row = found.pool_rows()[0]
    found.pool_rows = lambda: [  # type: ignore[method-assign]
        row._replace(database=f"d{number}") for number in range(500)
    ]
    turns = 0

    async def scrape() -> str:
        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.ensure_future(count())
        text = await metrics.render_gently(found)
        other.cancel()
        return text

    assert asyncio.run(scrape()) == render(found)
    assert turns > 50
