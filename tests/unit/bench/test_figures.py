"""The bench's own arithmetic: ratios, bars, the table, the chart."""

import xml.etree.ElementTree as ElementTree

from tests.bench import report
from tests.bench.__main__ import OURS, PEER, Bench
from tests.bench.figures import Figure
from tests.bench.load import LoadFailed


def figure(**more):
    return Figure("simple", "us", 0.85, lambda target: 1.0, **more)


class Scripted(Bench):
    """A bench whose controls and measurements are given."""

    def __init__(self, controls, values):
        self.commands = {OURS: ["a"], PEER: ["b"]}
        self.drift, self.order = 0.1, []
        self._controls, self._values = iter(controls), values

    def control(self, seconds):
        return next(self._controls)

    def measure(self, figure, name):
        self.order.append(name)
        return self._values[name]


def test_ratio_is_the_median_of_the_rounds():
    one = figure()
    for ours, peers in (([1, 3], [2, 6]), ([9, 9], [10, 10]), ([4, 4], [5, 5])):
        one.add(ours, peers)
    assert one.ratios == [0.5, 0.9, 0.8]
    assert one.ratio == 0.8
    assert one.reached is True


def test_bar_for_our_own_value_ignores_the_ratio():
    one = Figure("p99", "", 2.0, lambda target: 1.0, is_absolute=True)
    one.add([2.5, 2.5], [9, 9])
    assert one.ratio < 1
    assert one.reached is False


def test_rounds_run_us_peer_peer_us():
    bench, one = Scripted([100, 100], {OURS: 8.0, PEER: 10.0}), figure()
    bench.run(one, 1, 1)
    assert bench.order == [OURS, PEER, PEER, OURS]
    assert one.ratios == [0.8]


def test_round_with_a_drifting_control_does_not_count():
    bench, one = Scripted([100, 70, 100, 99], {OURS: 8.0, PEER: 10.0}), figure()
    bench.run(one, 1, 1)
    assert (one.rejected, len(one.ratios)) == (1, 1)


def test_figure_without_a_steady_round_has_failed():
    bench, one = Scripted([100, 70, 100, 50], {OURS: 8.0, PEER: 10.0}), figure()
    bench.run(one, 1, 1)
    assert "rejected" in one.failure


def test_load_that_fails_is_told_and_not_counted():
    bench, one = Scripted([100, 100], {}), figure()

    def broken(figure, name):
        raise LoadFailed("pgbench said no\nand more")

    bench.measure = broken
    bench.run(one, 1, 1)
    assert one.failure == "pgbench said no"
    assert "FAILED: pgbench said no" in report.told(one)


def test_table_and_chart_show_each_figure():
    reached, missed = figure(), Figure("TLS & more", "us", 0.85, lambda target: 1.0)
    reached.add([1, 1], [2, 2])
    missed.add([3, 3], [2, 2])
    versions = {OURS: "PgBouncer 1.26.1", PEER: "PgBouncer 1.26.1"}
    ceilings = {"floor us": 17.0, OURS: 30000.0}
    shown = [reached, missed]
    text = report.markdown(shown, ceilings, versions, "PostgreSQL 15", 5, 4, 0.1)
    assert "| simple | us | 1.0 | 2.0 | 0.50 | 0.50-0.50 | 0.85 | reached |  |" in text
    assert "1.50 | 1.50-1.50 | 0.85 | **missed**" in text
    svg = ElementTree.fromstring(report.chart(shown))
    texts = [element.text for element in svg.iter() if element.tag.endswith("text")]
    assert texts[1:] == ["simple", "0.50", "TLS & more", "1.50"]
