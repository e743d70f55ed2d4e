"""The table and the chart that `make bench` leaves in docs/."""

import os
import platform
import re
import statistics
from html import escape
from pathlib import Path

from tests.bench.figures import Figure

WIDTH, ROW, LEFT, SCALE = 820, 30, 285, 320


def value(values: list[float]) -> str:
    """A median, with as many digits as it deserves."""
    if not values:
        return ""
    middle = statistics.median(values)
    return f"{middle:.0f}" if middle >= 100 else f"{middle:.1f}"


def spread(values: list[float]) -> str:
    """The least and the greatest."""
    return f"{min(values):.2f}-{max(values):.2f}" if values else ""


def verdict(figure: Figure) -> str:
    """Whether the bar was reached, in a word."""
    return {True: "reached", False: "**missed**", None: ""}[figure.reached]


def bar_of(figure: Figure) -> str:
    """The bar, as it stands in the table."""
    if figure.bar is None:
        return ""
    return f"{figure.bar:.2f}" + (" (ours)" if figure.is_absolute else "")


def told(figure: Figure) -> str:
    """A line for the terminal."""
    if figure.failure:
        return f"{figure.name}: FAILED: {figure.failure}"
    ratio = "" if figure.ratio is None else f", ratio {figure.ratio:.2f}"
    ours, peers = value(figure.ours), value(figure.peers)
    return f"{figure.name}: {ours} against {peers} {figure.unit}{ratio}"


def machine() -> str:
    """Processor, cores, kernel, Python."""
    info = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.*)$", info, re.M)
    model = found[1] if found else platform.machine()
    cores = len(os.sched_getaffinity(0))
    return (
        f"{model}, {cores} cores, Linux {platform.release()},"
        f" Python {platform.python_version()}"
    )


def markdown(
    figures: list[Figure],
    ceilings: dict[str, float],
    versions: dict[str, str],
    server: str,
    rounds: int,
    seconds: int,
    drift: float,
) -> str:
    """The whole of docs/performance.md."""
    peer = versions.get("peer", "nobody")
    lines = [
        "# How fast it is",
        "",
        "Written by `make bench`; everything was measured in one run on one machine.",
        "",
        f"- us: pybouncer ({versions['pybouncer']}); the peer: {peer}; {server}",
        f"- {machine()}",
        f"- {rounds} rounds per figure, each us, peer, peer, us; {seconds} s per run.",
        "  Values are medians; a ratio is the median of the rounds' ratios, with the",
        "  least and the greatest of them. Smaller is better, below 1 is for us.",
        "- Processor time is the pooler's own, user and system (`/proc/PID/stat`).",
        "- A round was rejected when PostgreSQL alone, before and after it, differed",
        f"  by more than {drift:.0%}.",
        "",
        "![ratios](performance.svg)",
        "",
        "| figure | unit | us | peer | ratio | spread | bar | | rejected |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for f in figures:
        if f.failure:
            lines.append(f"| {f.name} | could not be measured: {f.failure} |")
            continue
        ratio = "" if f.ratio is None else f"{f.ratio:.2f}"
        cells = [f.name, f.unit, value(f.ours), value(f.peers), ratio]
        cells += [spread(f.ratios), bar_of(f), verdict(f), str(f.rejected or "")]
        lines.append(f"| {' | '.join(cells)} |")
    if ceilings:
        floor = ceilings.pop("floor us")
        lines += [
            "",
            "## The ceiling",
            "",
            "Before a server that gives one fixed answer at next to no cost, what",
            "limits is the pooler, or pgbench. Transactions per second of `select 1`.",
            f"The bare proxy used {floor:.1f} us of processor time per transaction.",
            "",
            "| | tps |",
            "|---|---|",
            *(f"| {name} | {tps:.0f} |" for name, tps in ceilings.items()),
        ]
    return "\n".join(lines) + "\n"


def chart(figures: list[Figure]) -> str:
    """Ratios as bars, each with its mark where the bar to reach is."""
    shown = [f for f in figures if f.ratio is not None and not f.is_absolute]
    height = ROW * len(shown) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}"'
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" fill="#333333">pybouncer : PgBouncer'
        " (shorter is better; dashed: equal; red: the bar)</text>",
    ]
    for number, figure in enumerate(shown):
        assert figure.ratio is not None
        y = 36 + number * ROW
        length = min(figure.ratio, 1.45) * SCALE
        colour = "#c0504d" if figure.reached is False else "#4f81bd"
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">'
            f"{escape(figure.name)}</text>",
            f'<rect x="{LEFT}" y="{y}" width="{length:.0f}" height="20"'
            f' fill="{colour}"/>',
            f'<text x="{WIDTH - 50}" y="{y + 15}">{figure.ratio:.2f}</text>',
        ]
        if figure.bar is not None:
            x = LEFT + figure.bar * SCALE
            parts.append(
                f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{y - 3}" y2="{y + 23}"'
                ' stroke="#d00000" stroke-width="2"/>'
            )
    parts += [
        f'<line x1="{LEFT + SCALE}" x2="{LEFT + SCALE}" y1="30" y2="{height - 20}"'
        ' stroke="#333333" stroke-dasharray="4 3"/>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"
