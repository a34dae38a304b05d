"""What a user would take instead: ``python -m bench.peers`` writes bench/results/peers.md.

It takes a quarter of an hour. ``starter-image`` behind LitServe with its own batching, and behind Qanvas, on
the same machine: one client alone, twelve clients that ask for pictures of equal steps, and twelve that ask
for pictures of mixed steps. Each system has processes of its own. Both run all the time, and one is idle
while the other is measured; they take turns, forth and back, with the same requests in the same order.
"""

from __future__ import annotations

import argparse
import io
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from bench.peers_clients import Client, Peer, Request, litserve, qanvas
from bench.peers_report import Compared, Served, page, plot
from bench.report import IMAGES, link, machine, write_result

#: clients that ask at the same time
CLIENTS = 12
EQUAL, MIXED = (16,), (8, 12, 16, 24)
_THINGS = ("apple", "rocket", "fish", "house", "car", "tree", "heart", "star")
_COLOURS = ("red", "blue", "green", "yellow", "purple", "orange")
#: levels of 255 by which the two may draw the same picture differently: they add up in another order
_NEAR = 2


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--pairs", type=int, default=40, help="pictures of each for one client alone")
    parser.add_argument(
        "--pictures", type=int, default=8 * CLIENTS, help="of each in a round of many clients"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each for many clients")
    parser.add_argument("--quick", action="store_true", help="a short look; writes nothing")
    options = parser.parse_args(given)
    if options.quick:
        options.pairs, options.pictures, options.rounds = 4, 2 * CLIENTS, 1
    began, said = time.monotonic(), machine()
    with litserve() as other, qanvas() as ours:
        peers = (other, ours)
        check_alike(peers)
        for peer in peers:  # until Qanvas's worker knows what each number of rows costs
            for _ in range(1 if options.quick else 3):
                crowd(peer, requests(MIXED, 2 * CLIENTS, seed=0))
        found = [alone(peers, options.pairs)]
        for what, steps in (("equal steps", EQUAL), ("mixed steps", MIXED)):
            found.append(many(what, peers, steps, options.pictures, options.rounds))
    took = f"The run took {(time.monotonic() - began) / 60:.1f} minutes."
    text = page(f"{said} {took}", found)
    print(text)
    with tempfile.TemporaryDirectory() as folder:
        drawn = plot(found, Path(folder) if options.quick else IMAGES)
    if not options.quick:
        shown = f"![Seconds for a picture alone, and pictures a second for many]({link(drawn)})"
        write_result("peers", f"{text}\n\n{shown}")


def requests(steps: Sequence[int], count: int, seed: int) -> list[Request]:
    """The same for the same seed."""
    dice = random.Random(seed)
    return [
        Request(
            f"a {dice.choice(_COLOURS)} {dice.choice(_THINGS)}", dice.randrange(1 << 31), dice.choice(steps)
        )
        for _ in range(count)
    ]


def check_alike(peers: Sequence[Peer]) -> None:
    """Raises RuntimeError unless both draw the same picture for the same request."""
    request = Request("a red apple", 7, EQUAL[0])
    drawn = []
    for peer in peers:
        with peer.client() as client:
            picture = PIL.Image.open(io.BytesIO(client.draw(request))).convert("RGB")
        drawn.append(np.asarray(picture, np.int16))
    one, other = drawn
    if one.shape != other.shape or (apart := int(np.abs(one - other).max())) > _NEAR:
        raise RuntimeError(f"the two do not draw the same picture: {one.shape}, {other.shape}, {apart} apart")


def alone(peers: Sequence[Peer], pairs: int) -> Compared:
    """One client, one request after the other, by turns and in changing order."""
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    with peers[0].client() as first, peers[1].client() as second:
        clients = list(zip(peers, (first, second), strict=True))
        for number, request in enumerate(requests(EQUAL, pairs, seed=1)):
            for peer, client in clients if number % 2 == 0 else reversed(clients):
                times[peer.name].append(_timed(client, request))
    other, ours = (times[peer.name] for peer in peers)
    ratios = [mine / its for its, mine in zip(other, ours, strict=True)]
    return Compared("one client alone", _served(other), _served(ours), ratios)


def many(what: str, peers: Sequence[Peer], steps: Sequence[int], count: int, rounds: int) -> Compared:
    """``CLIENTS`` clients, each with its next request when it has its picture, in rounds by turns."""
    rates: dict[str, list[float]] = {peer.name: [] for peer in peers}
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for number in range(rounds):
        asked = requests(steps, count, seed=number + 2)
        for peer in peers if number % 2 == 0 else reversed(peers):
            began = time.perf_counter()
            times[peer.name] += crowd(peer, asked)
            rates[peer.name].append(count / (time.perf_counter() - began))
    other, ours = peers
    return Compared(
        what,
        _served(times[other.name], rates[other.name]),
        _served(times[ours.name], rates[ours.name]),
        [mine / its for its, mine in zip(rates[other.name], rates[ours.name], strict=True)],
    )


def crowd(peer: Peer, asked: Sequence[Request]) -> list[float]:
    """Seconds for each of the requests, by as many clients as there are. Raises what any of them raised."""
    left: Iterator[Request] = iter(asked)
    lock = threading.Lock()
    times: list[float] = []
    errors: list[Exception] = []

    def ask() -> None:
        try:
            with peer.client() as client:
                while True:
                    with lock:
                        request = next(left, None)
                    if request is None or errors:
                        return
                    times.append(_timed(client, request))
        except Exception as error:  # noqa: BLE001 - raised below, on the thread that waits
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return times


def _timed(client: Client, request: Request) -> float:
    began = time.perf_counter()
    client.draw(request)
    return time.perf_counter() - began


def _served(times: Sequence[float], rates: Sequence[float] | None = None) -> Served:
    """``rates``: pictures a second of each round; left out for one client, who is served one by one."""
    return Served(sorted(times), list(rates or [len(times) / sum(times)]))


if __name__ == "__main__":
    main()
