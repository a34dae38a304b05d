"""The figures as tables for docs/performance.md, and as a plot."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.overhead import Figures
    from worker.engines.contract.engine import Device

_DOCS = Path(__file__).parents[1] / "docs"
PAGE, IMAGES = _DOCS / "performance.md", _DOCS / "images"
PLOT = IMAGES / "overhead.png"

_SHOWN = f"![Jobs per second of a full queue, and ms from submission to success](images/{PLOT.name})"

_COLUMNS = {
    "submit_rate": "submits/s, 16",
    "submit_p99": "p99 ms",
    "submit_many": "submits/s, 64",
    "submit_many_p99": "p99 ms",
    "drain_rate": "jobs/s, full queue",
    "through_rate": "jobs/s, through",
    "end_p50": "end p50 ms",
    "end_p99": "p99 ms",
    "wait_p50": "client waits p50 ms",
    "wait_p99": "p99 ms",
    "submit_cpu": "CPU ms a submit",
    "run_cpu": "CPU ms a run",
}


def machine() -> str:
    """What the figures were measured on, and how busy it was; call it before the run."""
    return (
        f"{os.cpu_count()} CPUs shared by client, servers and worker; {platform.system()}, Python "
        f"{platform.python_version()}. Before the run the load average was {os.getloadavg()[0]:.1f}, and the "
        f"disk took {_sync_ms():.1f} ms to sync a small file."
    )


def tables(found: Mapping[str, Figures], steps: Mapping[str, Mapping[str, float]], machine_said: str) -> str:
    """Markdown."""
    few, many = (
        statistics.median(value for one in found.values() if (value := getattr(one, name)) is not None)
        for name in ("noop_rate", "noop_many")
    )
    rows = [["", *_COLUMNS.values()]]
    for name, figures in found.items():
        rows.append([name, *(_number(getattr(figures, column)) for column in _COLUMNS)])
    ratios = [
        [
            "",
            "submits/s to the no-op route, 16",
            "64",
            "jobs/s of a full queue, to Celery",
            "jobs/s through, to Celery + Flask",
            "CPU a run, to Celery",
        ]
    ]
    for name, figures in found.items():
        if name.startswith("Qanvas"):
            ratios.append(
                [
                    name,
                    _number(figures.submit_to_noop, 2),
                    _number(figures.submit_many_to_noop, 2),
                    ratio(figures.drain_rate, found["Celery"].drain_rate),
                    ratio(figures.through_rate, found["Celery + Flask"].through_rate),
                    ratio(figures.run_cpu, found["Celery"].run_cpu),
                ]
            )
    names = list(steps)
    costs = [["ms for each job", *names]]
    costs += [[step, *(f"{steps[name][step]:.3f}" for name in names)] for step in steps[names[0]]]
    said = (
        f"{machine_said} A route that does nothing on the same server: {few:.0f} requests/s over "
        f"16 connections, {many:.0f} over 64."
    )
    return "\n\n".join([said, table(rows), table(ratios), table(costs)])


def write(text: str, found: Mapping[str, Figures]) -> None:
    """Put the tables into the page, and draw the plot."""
    fill_in("overhead", f"{text}\n\n{_SHOWN}")
    _draw(found)


def marks(part: str) -> tuple[str, str]:
    """The lines of a page between which such a part stands."""
    return f"<!-- {part}: begin -->", f"<!-- {part}: end -->"


def on_device(part: str, device: Device) -> str:
    """The name of a part that a GPU has for itself, beside the CPU's."""
    return part if device.name == "cpu" else f"{part}-gpu"


def fill_in(part: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between the marks of a part of the page."""
    begin, end = marks(part)
    before, _, rest = page.read_text().partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def _draw(found: Mapping[str, Figures]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name in found if "2 API" not in name]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    _bars(left, names, [("full queue", [found[n].drain_rate for n in names])], "#3b6ea5")
    left.set_title("jobs per second, full queue", loc="left", fontsize=11)
    times = [("p50", [found[n].end_p50 for n in names]), ("p99", [found[n].end_p99 for n in names])]
    _bars(right, names, times, "#c2703d")
    right.set_title("ms from submission to success, at a steady rate", loc="left", fontsize=11)
    right.legend(frameon=False, loc="upper right")
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=110)


def _bars(axes: Any, names: Sequence[str], series: Sequence[tuple[str, list[Any]]], colour: str) -> None:
    height = 0.8 / len(series)
    for number, (label, values) in enumerate(series):
        places = [index + number * height for index in range(len(names))]
        bars = axes.barh(places, values, height * 0.9, label=label, color=colour, alpha=1 - 0.45 * number)
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=9)
    axes.set_yticks([index + (len(series) - 1) * height / 2 for index in range(len(names))], names)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def _sync_ms() -> float:
    """Median of some."""
    times = []
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(40):
            file.write(b"x" * 4096)
            start = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first row is the head."""
    head, *body = rows
    lines = [head, ["---", *(["---:"] * (len(head) - 1))], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None, digits: int = 1) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.{digits}f}"


def ratio(value: float | None, of: float | None) -> str:
    return "" if value is None or not of else f"{value / of:.2f}"
