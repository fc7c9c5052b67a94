"""How long a receiver waits for an answer."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import zenoh

from billiards_shm.capture.stats import CaptureStatistics
from billiards_shm.mirror import link
from billiards_shm.mirror.keys import Origin
from billiards_shm.mirror.link import GET_TIMEOUT_SEC, LONGEST_TIMEOUT_SEC, Link
from billiards_shm.mirror.wire import Answer, Kind, Request


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wait(self, seconds: float) -> bool:
        self.now_ns += round(seconds * 1e9)
        return False


class SlowHost:
    """A session with a host whose answers take a given time; Zenoh says when that is too long."""

    def __init__(self, clock: Clock) -> None:
        self.takes_sec = 0.0
        self.timeouts: list[float] = []
        self._clock = clock

    def get(self, key: str, *, payload: bytes, timeout: float, **more: object) -> Any:
        self.timeouts.append(timeout)
        comes_ns = self._clock.now_ns + round(min(self.takes_sec, timeout) * 1e9)
        replies = [self._too_late() if self.takes_sec > timeout else self._answer(Request.unpack(payload))]

        def try_recv() -> Any:
            if self._clock.now_ns < comes_ns:
                return None
            if not replies:
                raise zenoh.ZError("there are no more")
            return replies.pop()

        def recv() -> Any:
            self._clock.now_ns = max(self._clock.now_ns, comes_ns)
            return try_recv()

        return SimpleNamespace(recv=recv, try_recv=try_recv)

    @staticmethod
    def _too_late() -> Any:
        return SimpleNamespace(ok=None, err=SimpleNamespace(payload=zenoh.ZBytes(b"Timeout")), replier_id=None)

    @staticmethod
    def _answer(request: Request) -> Any:
        answer = Answer(request.nonce, 1, 2)
        sample = SimpleNamespace(attachment=zenoh.ZBytes(answer.pack()), payload=zenoh.ZBytes(b""))
        return SimpleNamespace(ok=sample, err=None, replier_id=None)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(link, "time", made)
    return made


@pytest.fixture
def host(clock: Clock) -> SlowHost:
    return SlowHost(clock)


def linked(host: Any, clock: Clock, pause: Callable[[float], bool] | None = None) -> Link:
    statistics = CaptureStatistics(clock.now_ns)
    return Link(host, Origin("a", "b", "c"), statistics, zenoh.CancellationToken(), pause or clock.wait)


def test_an_answer_that_takes_long_arrives_and_is_not_counted_as_refused(host: SlowHost, clock: Clock) -> None:
    asking = linked(host, clock)
    host.takes_sec = 5.0
    answers = [asking.ask(Request(Kind.FRAMES)) for _ in range(5)]
    assert [answer is not None for answer in answers] == [False, False, False, True, True]
    assert asking._statistics.rejected == asking._statistics.unreadable == 0
    assert host.timeouts == pytest.approx([1.0, 2.0, 4.0, 8.0, 10.0], rel=0.02)
    host.takes_sec = 0.1
    for _ in range(2):
        assert asking.ask(Request(Kind.FRAMES)) is not None
    assert host.timeouts[-1] == GET_TIMEOUT_SEC


def test_a_host_that_never_answers_is_asked_again_and_again(host: SlowHost, clock: Clock) -> None:
    asking = linked(host, clock)
    host.takes_sec = 1e6
    for _ in range(10):
        assert asking.ask(Request(Kind.FRAMES)) is None
    assert max(host.timeouts) == host.timeouts[-1] == LONGEST_TIMEOUT_SEC


def test_a_stop_ends_the_wait_for_a_late_answer(host: SlowHost, clock: Clock) -> None:
    asking = linked(host, clock, lambda seconds: True)
    host.takes_sec = 1e6
    asking.ask(Request(Kind.FRAMES))
    before_ns = clock.now_ns
    assert asking.ask(Request(Kind.FRAMES)) is None
    assert clock.now_ns == before_ns
