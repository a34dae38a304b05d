"""The benchmark beside LitServe: both draw the same, and it says honestly what was found."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.peers import MIXED, alone, check_alike, many, requests
from bench.peers_clients import Peer, Request, litserve, qanvas
from bench.peers_report import Compared, Served, aims, page, plot
from tests.servers import wait_until


def compared(what: str, *ratios: float) -> Compared:
    return Compared(what, Served([0.4, 0.5, 0.6], [2.0]), Served([0.5, 0.5, 0.7], [1.9]), list(ratios))


@pytest.fixture(scope="module")
def other() -> Iterator[Peer]:
    pytest.importorskip("litserve", reason="of the extra `bench`")
    with litserve() as peer:
        yield peer


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_systems_draw_the_same_pictures_by_turns(other: Peer) -> None:
    with qanvas() as ours:
        check_alike((other, ours))
        lone = alone((other, ours), pairs=2)
        mixed = many("mixed steps", (other, ours), steps=(1, 2), count=6, rounds=2)
    assert [len(each.ratios) for each in (lone, mixed)] == [2, 2]
    for each in (lone, mixed):
        for served in (each.litserve, each.qanvas):
            assert 0 < served.times[0] <= served.median <= served.times[-1]
            assert served.rate > 0
    assert [len(served.times) for served in (mixed.litserve, mixed.qanvas)] == [12, 12]


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_litserve_fails_the_request_whose_worker_dies(other: Peer) -> None:
    """The client has to ask again."""
    answered: list[str] = []

    def ask() -> None:
        with other.client() as client:
            try:
                client.draw(Request("a red apple", 7, 5000))
            except (RuntimeError, OSError) as error:
                answered.append(str(error))
            else:
                answered.append("a picture")

    asking = threading.Thread(target=ask)
    family = [
        one for one in psutil.process_iter(["cmdline"]) if str(other.port) in (one.info["cmdline"] or ())
    ]
    [server] = [one for one in family if one.parent() not in family]
    worker = max(server.children(recursive=True), key=lambda one: one.memory_info().rss)
    before = worker.cpu_times().user
    asking.start()
    wait_until(lambda: worker.cpu_times().user > before + 1, 60, what="the picture to be begun")
    worker.kill()
    asking.join(60)
    assert len(answered) == 1
    assert "answered 500" in answered[0]


def test_requests_are_the_same_for_the_same_seed() -> None:
    asked = requests(MIXED, 50, seed=3)
    assert asked == requests(MIXED, 50, seed=3) != requests(MIXED, 50, seed=4)
    assert {request.steps for request in asked} == set(MIXED)


def test_each_measurement_has_its_aim_and_one_that_is_missed_is_said_to_be_missed() -> None:
    found = [
        compared("one client alone", 1.2, 1.0, 1.3),
        compared("equal steps", 1.0),
        compared("mixed steps", 1.7),
    ]
    assert [(aim.found, aim.bound, aim.is_met) for aim in aims(found)] == [
        (1.2, 1.1, False),
        (1.0, 1.0, True),
        (1.7, 1.6, True),
    ]
    text = page("On some machine.", found)
    assert "Qanvas to LitServe | 1.200 | ≤ 1.1 | **no** |" in text
    assert (
        "| one client alone | 2.00 / 1.90 | 0.50 / 0.50 | 0.50 / 0.50 | 1.20 (time) | 1.10 to 1.25 |" in text
    )
    assert "| equal steps | 2.00 / 1.90 | 0.50 / 0.50 | 0.50 / 0.50 | 1.00 (rate) | one pair |" in text


@pytest.mark.slow
def test_what_was_measured_is_shown_in_a_plot(tmp_path: Path) -> None:
    drawn = plot([compared("one client alone", 1.0), compared("mixed steps", 2.0)], tmp_path)
    assert drawn.name == "peers.png"
    assert drawn.stat().st_size > 5000
