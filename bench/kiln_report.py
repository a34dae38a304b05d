"""What ``bench.kiln`` found: tables, aims and whether they are met, and a plot for each model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.kiln_lone import Lone
from bench.kiln_rounds import Figures, Measured
from bench.kiln_service import BATCHES, Service
from bench.report import ratio, table

#: in the order of the columns, with the colours of the plots
SYSTEMS = {"sequential": "#8a8a8a", "static": "#c2703d", "kiln": "#3b6ea5"}
_HEAD = [
    "steps",
    "load",
    "requests/s",
    "mean ms",
    "p99 ms",
    "forwards",
    "requests/s, kiln to sequential",
    "kiln to static",
    "mean time, kiln to sequential",
]


@dataclass(frozen=True, slots=True)
class Aim:
    """A ratio and its bound, which it shall reach or stay under."""

    what: str
    found: float
    bound: float
    at_least: bool

    @property
    def is_met(self) -> bool:
        return self.found >= self.bound if self.at_least else self.found <= self.bound


def tables(measured: Sequence[Measured]) -> str:
    """One for each model."""
    titles = list(dict.fromkeys(each.subject.title for each in measured))
    parts = []
    for title in titles:
        lines = [line(each) for each in measured if each.subject.title == title]
        parts.append(f"**{title}** (sequential / static / kiln)\n\n{table([_HEAD, *lines])}")
    return "\n\n".join(parts)


def line(each: Measured) -> list[str]:
    """The three systems, and the kiln against the others."""
    one, static, kiln = found = [each.systems[name] for name in SYSTEMS]
    return [
        each.steps,
        f"{each.load:g}",
        " / ".join(f"{figures.rate:.1f}" for figures in found),
        " / ".join(f"{1000 * figures.mean:.0f}" for figures in found),
        " / ".join(f"{1000 * figures.p99:.0f}" for figures in found),
        " / ".join(str(figures.forwards) for figures in found),
        ratio(kiln.rate, one.rate),
        ratio(kiln.rate, static.rate),
        ratio(kiln.mean, one.mean),
    ]


def aims(measured: Sequence[Measured], alone: Sequence[Lone], full: Sequence[Service]) -> list[Aim]:
    """Of those that were measured."""
    found: list[Aim] = []
    for each in measured:
        found += _aims(each)
    for one in alone:
        where = f"{one.subject.key}, one request alone: time"
        found.append(Aim(f"{where}, kiln to the bare call", one.kiln.median, 1.03, False))
        found.append(Aim(f"{where}, whole service to the bare call", one.service.median, 1.1, False))
    found += [
        Aim(
            f"{one.subject.key}, full queue: pictures/s, whole service to bare batches", one.ratio, 0.95, True
        )
        for one in full
    ]
    return found


def lone_table(alone: Sequence[Lone]) -> str:
    """Markdown: one request alone."""
    head = ["one request alone", "steps", "bare, ms", "kiln to bare", "whole service to bare", "pairs"]
    rows = [
        [
            one.subject.key,
            str(one.subject.lone),
            f"{1000 * one.bare:.0f}",
            str(one.kiln),
            str(one.service),
            str(one.pairs),
        ]
        for one in alone
    ]
    return table([head, *rows])


def full_table(full: Sequence[Service]) -> str:
    """Markdown: pictures a second by the size of bare batches, and of the service."""
    head = ["pictures/s", *(f"bare, {size} at once" for size in BATCHES), "service", "to the best, by turns"]
    rows = [
        [
            one.subject.key,
            *(f"{one.batches[size]:.2f}" for size in BATCHES),
            f"{one.service:.2f}",
            f"{one.ratio:.3f}",
        ]
        for one in full
    ]
    return table([head, *rows])


def _aims(each: Measured) -> Iterator[Aim]:
    one, static, kiln = (each.systems[name] for name in SYSTEMS)
    where = f"{each.subject.key}, {each.steps} steps, load {each.load:g}"
    match each.subject.key, each.steps, each.load:
        case "step-bound", "mixed", 3.0:
            yield Aim(f"{where}: requests/s, kiln to sequential", kiln.rate / one.rate, 2.0, True)
            yield Aim(f"{where}: requests/s, kiln to static", kiln.rate / static.rate, 1.4, True)
            yield Aim(f"{where}: mean time, kiln to sequential", kiln.mean / one.mean, 0.2, False)
        case "step-bound", "equal", 3.0:
            yield Aim(f"{where}: requests/s, kiln to static", kiln.rate / static.rate, 0.95, True)
        case "compute-bound", _, 0.85:
            yield Aim(f"{where}: mean time, kiln to sequential", kiln.mean / one.mean, 1.05, False)


def aims_table(found: Sequence[Aim]) -> str:
    """Markdown."""
    rows = [["aim", "measured", "at least or most", "met"]]
    for aim in found:
        bound = f"{'≥' if aim.at_least else '≤'} {aim.bound:g}"
        rows.append([aim.what, f"{aim.found:.3f}", bound, "yes" if aim.is_met else "**no**"])
    return table(rows)


def plots(measured: Sequence[Measured], part: str, folder: Path) -> list[Path]:
    """``part-MODEL.png`` for each model: requests a second and times by load, for equal and mixed steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    made = []
    for subject in dict.fromkeys(each.subject for each in measured):
        own = [each for each in measured if each.subject is subject]
        kinds = list(dict.fromkeys(each.steps for each in own))
        figure, axes = plt.subplots(
            len(kinds), 2, figsize=(10, 3.3 * len(kinds)), layout="constrained", squeeze=False
        )
        figure.suptitle(subject.title, x=0.01, ha="left", fontsize=13)
        for kind, (left, right) in zip(kinds, axes, strict=True):
            lines = [each for each in own if each.steps == kind]
            _draw(left, right, kind, lines)
        figure.legend(
            *axes[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False
        )
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{part}-{subject.key}.png"
        figure.savefig(path, dpi=100)
        plt.close(figure)
        made.append(path)
    return made


def _draw(left: Any, right: Any, kind: str, lines: Sequence[Measured]) -> None:
    from matplotlib.ticker import LogLocator

    loads = [each.load for each in lines]
    for name, colour in SYSTEMS.items():
        found: list[Figures] = [each.systems[name] for each in lines]
        look = {"color": colour, "marker": "o", "markersize": 5}
        left.plot(loads, [figures.rate for figures in found], **look)
        right.plot(loads, [1000 * figures.mean for figures in found], label=f"{name}, mean", **look)
        p99 = [1000 * figures.p99 for figures in found]
        right.plot(loads, p99, label=f"{name}, p99", linestyle="--", alpha=0.6, **look)
    left.set_title(f"{kind} steps: requests served per second", loc="left", fontsize=11)
    left.set_ylim(bottom=0)
    right.set_title(f"{kind} steps: ms from arrival to picture", loc="left", fontsize=11)
    right.set_yscale("log")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(loads, [f"{load:g}" for load in loads])
        axes.minorticks_off()
        axes.set_xlabel("load (1: all that one after the other can serve)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
