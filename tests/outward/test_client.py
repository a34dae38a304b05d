"""Requests over real sockets: where they go, and when they end."""

from __future__ import annotations

import itertools
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest
import trustme

from shared.errors import Refused, Unreachable
from shared.outward import Limits, Outward
from shared.outward.addresses import Address
from shared.outward.wire import Resolve, resolve
from tests.receivers import Answer, receiving

LIMITS = Limits(connect=5, read=5, total=10, bytes=1000)
HOME = ip_address("127.0.0.1")


def resolving(*answers: Sequence[Address]) -> Resolve:
    """Names that change their address with every question, as in DNS rebinding."""
    following = itertools.chain(answers, itertools.repeat(answers[-1]))
    return lambda host, seconds: next(following)


def status(outward: Outward, url: str, limits: Limits = LIMITS) -> int:
    with outward.send("GET", url, limits=limits) as reply:
        for _ in reply.chunks:
            pass
        return reply.status


def test_a_name_that_leads_to_a_private_address_is_refused_before_anything_is_sent() -> None:
    with receiving() as receiver:
        url = receiver.url.replace("127.0.0.1", "example.test")
        with pytest.raises(Refused, match=r"example\.test leads to 127\.0\.0\.1"):
            status(Outward(allow_private=False, resolve=resolving([HOME])), url)
        assert receiver.requests == []


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    mixed = resolving([ip_address("1.1.1.1"), HOME])
    with pytest.raises(Refused, match=r"leads to 127\.0\.0\.1"):
        status(Outward(allow_private=False, resolve=mixed), "http://example.test/")


def test_the_address_connected_to_is_the_one_that_was_checked() -> None:
    """A name is resolved once: what it would answer the second time does not matter."""
    with receiving() as receiver:
        url = receiver.url.replace("127.0.0.1", "example.test")
        rebinding = resolving([HOME], [ip_address("169.254.169.254")])
        assert status(Outward(allow_private=True, resolve=rebinding), url) == 200
        [request] = receiver.requests
        assert request.headers["host"] == url.removeprefix("http://")


def test_the_next_address_is_tried_when_the_first_does_not_answer() -> None:
    with receiving() as receiver:
        port = int(receiver.url.rpartition(":")[2])
        both = resolving([ip_address("127.0.0.2"), ip_address("::1"), HOME])
        # the receiver listens on one address alone
        assert status(Outward(allow_private=True, resolve=both), f"http://example.test:{port}/") == 200


def test_a_redirect_is_given_back_and_not_followed() -> None:
    with receiving(lambda number, request: Answer(302, {"Location": "/elsewhere"})) as receiver:
        assert status(Outward(allow_private=True), receiver.url) == 302
        assert len(receiver.requests) == 1


def test_an_answer_that_is_too_large_is_cut_off() -> None:
    endless = itertools.repeat(b"x" * 100)
    with receiving(lambda number, request: Answer(body=endless)) as receiver:
        with pytest.raises(Unreachable, match="larger than 1000 bytes") as failed:
            status(Outward(allow_private=True), receiver.url)
        assert not failed.value.temporary


def test_a_receiver_that_never_answers_costs_the_time_limit() -> None:
    ended = threading.Event()

    def hang(number: int, request: object) -> Answer:
        ended.wait(60)
        return Answer()

    with receiving(hang) as receiver:
        with pytest.raises(Unreachable, match="no answer in time"):
            status(Outward(allow_private=True), receiver.url, Limits(connect=5, read=0.2, total=5))
        ended.set()


def test_a_byte_now_and_then_does_not_hold_a_request_past_its_time() -> None:
    ended = threading.Event()

    def drip() -> Iterator[bytes]:
        while not ended.wait(0.05):
            yield b"x"

    with receiving(lambda number, request: Answer(body=drip())) as receiver:
        with pytest.raises(Unreachable, match="no answer in time"):
            status(Outward(allow_private=True), receiver.url, Limits(connect=5, read=5, total=0.5))
        ended.set()


def test_a_name_that_does_not_exist_has_no_address() -> None:
    with pytest.raises(Unreachable, match="no address"):
        resolve("does-not-exist.invalid", 10)


def test_a_name_that_nobody_answers_for_costs_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def never(*given: object, **more: object) -> list[object]:
        ended.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", never)
    with pytest.raises(Unreachable, match=r"within 0\.1 s"):
        resolve("nobody-answers.invalid", 0.1)
    ended.set()


class TestOverTls:
    @pytest.fixture
    def authority(self) -> trustme.CA:
        return trustme.CA()

    def _server(self, authority: trustme.CA, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        return context

    def _outward(self, authority: trustme.CA) -> Outward:
        trust = ssl.create_default_context()
        authority.configure_trust(trust)
        return Outward(allow_private=True, resolve=resolving([HOME]), trust=trust)

    def test_the_certificate_must_be_that_of_the_name_though_the_address_is_pinned(
        self, authority: trustme.CA
    ) -> None:
        with receiving(tls=self._server(authority, "example.test")) as receiver:
            url = receiver.url.replace("127.0.0.1", "example.test")
            assert status(self._outward(authority), url) == 200

    def test_a_certificate_of_another_name_is_refused(self, authority: trustme.CA) -> None:
        with receiving(tls=self._server(authority, "other.test")) as receiver:
            url = receiver.url.replace("127.0.0.1", "example.test")
            with pytest.raises(Unreachable, match="certificate does not hold"):
                status(self._outward(authority), url)

    def test_a_certificate_of_an_unknown_authority_is_refused(self, authority: trustme.CA) -> None:
        with receiving(tls=self._server(trustme.CA(), "example.test")) as receiver:
            url = receiver.url.replace("127.0.0.1", "example.test")
            with pytest.raises(Unreachable, match="certificate does not hold"):
                status(self._outward(authority), url)
