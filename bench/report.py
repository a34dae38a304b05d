"""Figures as tables and plots, and the folder that keeps what benchmarks and drills have measured."""

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

RESULTS = Path(__file__).with_name("results")
IMAGES = Path(__file__).parents[1] / "docs" / "images"
#: by the name of a file in RESULTS: its title, and the command that writes it
PARTS = {
    "overhead": ("What a job costs that costs nothing", "python -m bench.overhead"),
    "claims": ("What a claim costs in a deep queue", "python -m bench.claims"),
    "streams": ("What open event streams cost", "python -m bench.streams"),
    "kiln": ("Sharing steps under load", "python -m bench.kiln --only load"),
    "kiln-alone": ("One request alone", "python -m bench.kiln --only alone"),
    "kiln-full": ("A full queue", "python -m bench.kiln --only full"),
    "peers": ("Beside LitServe", "python -m bench.peers"),
    "knee": ("What a forward of several pictures gains", "python -m bench.knee"),
    "our-drill": ("Drills: everything is broken at random", "make drill WRITE=1"),
    "drills": ("A worker killed in the middle of a job, side by side", "python -m bench.drills"),
}
_GPU = "-gpu"
PLOT = IMAGES / "overhead.png"

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
    """Write the tables to RESULTS, and draw the plot."""
    shown = f"![Jobs per second of a full queue, and ms from submission to success]({link(PLOT)})"
    write_result("overhead", f"{text}\n\n{shown}")
    _draw(found)


def on_device(part: str, device: Device) -> str:
    """The name of a part that a GPU has for itself, beside the CPU's."""
    return part if device.name == "cpu" else f"{part}{_GPU}"


def link(image: Path) -> str:
    """How a file in RESULTS names an image."""
    return f"../../docs/images/{image.name}"


def write_result(part: str, text: str) -> Path:
    """Replace the file of this part in RESULTS, and return it."""
    title, command = PARTS[part.removesuffix(_GPU)]
    if part.endswith(_GPU):
        title, command = f"{title}, on a GPU", f"{command} --device cuda"
    path = RESULTS / f"{part}.md"
    path.write_text(f"# {title}\n\nWritten by `{command}`.\n\n{text}\n")
    return path


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
