"""What ``bench.peers`` found: a table, the aims and whether they are met, and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.kiln_report import Aim, aims_table
from bench.report import table

#: in the order of the columns, with the colours of the plot
SYSTEMS = {"LitServe": "#c2703d", "Qanvas": "#3b6ea5"}
#: for each measurement, whether times are compared, not rates; and what the ratio shall reach or stay under
_AIMS = {"one client alone": (True, 1.10), "equal steps": (False, 1.0), "mixed steps": (False, 1.6)}


@dataclass(frozen=True, slots=True)
class Served:
    """Seconds of each request in ascending order, and pictures a second of each round."""

    times: list[float]
    rates: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.times)

    @property
    def p95(self) -> float:
        return self.times[int(0.95 * (len(self.times) - 1))]

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


@dataclass(frozen=True, slots=True)
class Compared:
    """One measurement; ``ratios`` are Qanvas to LitServe of each pair of neighbours: of times for one client,
    of rates for many."""

    what: str
    litserve: Served
    qanvas: Served
    ratios: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def spread(self) -> str:
        """Between which half of the ratios lie."""
        if len(self.ratios) < 2:
            return "one pair"
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return f"{low:.2f} to {high:.2f}"


def page(said: str, found: Sequence[Compared]) -> str:
    """Markdown."""
    head = ["LitServe / Qanvas", "pictures/s", "median s", "p95 s", "Qanvas to LitServe", "half of them"]
    rows = [head, *(_line(each) for each in found)]
    return "\n\n".join([said, aims_table(aims(found)), table(rows)])


def _line(each: Compared) -> list[str]:
    both = (each.litserve, each.qanvas)
    kind = "time" if _AIMS[each.what][0] else "rate"
    return [
        each.what,
        " / ".join(f"{one.rate:.2f}" for one in both),
        " / ".join(f"{one.median:.2f}" for one in both),
        " / ".join(f"{one.p95:.2f}" for one in both),
        f"{each.ratio:.2f} ({kind})",
        each.spread,
    ]


def aims(found: Sequence[Compared]) -> list[Aim]:
    """Of those that were measured."""
    said = []
    for each in found:
        of_time, bound = _AIMS[each.what]
        kind = "time for a picture" if of_time else "pictures/s"
        said.append(Aim(f"{each.what}: {kind}, Qanvas to LitServe", each.ratio, bound, not of_time))
    return said


def plot(found: Sequence[Compared], folder: Path) -> Path:
    """``peers.png``: seconds for a picture of one client, and pictures a second of many."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(found), figsize=(3.6 * len(found), 3.2), layout="constrained", squeeze=False
    )
    for place, each in zip(axes[0], found, strict=True):
        of_time = _AIMS[each.what][0]
        _bars(place, each, "seconds for a picture" if of_time else "pictures a second", of_time)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "peers.png"
    figure.savefig(path, dpi=100)
    plt.close(figure)
    return path


def _bars(place: Any, each: Compared, unit: str, of_time: bool) -> None:
    both = (each.litserve, each.qanvas)
    heights = [one.median if of_time else one.rate for one in both]
    bars = place.bar(list(SYSTEMS), heights, 0.6, color=list(SYSTEMS.values()))
    place.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    place.set_title(f"{each.what}: {unit}", loc="left", fontsize=10)
    place.margins(y=0.15)
    place.spines[["top", "right"]].set_visible(False)
