"""The other host's clock, measured by round trips."""

from hypothesis import given
from hypothesis import strategies as st

from billiards_shm.mirror.clock import DRIFT, RemoteClock

MS = 1_000_000
OFFSETS = st.integers(-(10**15), 10**15)
WAYS = st.integers(0, 500 * MS)


def trip(clock: RemoteClock, offset: int, now: int, there: int, back: int, stay: int = 0) -> int:
    """A round trip that begins now; returns when it ends."""
    arrived = now + there + stay + back
    clock.add(now, now + there + offset, now + there + stay + offset, arrived)
    return arrived


@given(OFFSETS, st.lists(st.tuples(WAYS, WAYS, WAYS), min_size=1, max_size=20))
def test_the_offset_is_within_the_error_however_uneven_the_paths_are(
    offset: int, ways: list[tuple[int, int, int]]
) -> None:
    clock, now = RemoteClock(), 10**15
    for there, back, stay in ways:
        now = trip(clock, offset, now, there, back, stay) + MS
        assert abs(clock.to_local(now + offset) - now) <= clock.error_ns(now) + 1


@given(st.floats(-DRIFT, DRIFT), st.lists(st.tuples(WAYS, WAYS), min_size=5, max_size=60))
def test_a_clock_that_drifts_stays_within_the_error(drift: float, ways: list[tuple[int, int]]) -> None:
    clock, now = RemoteClock(), 0

    def there_is(here: int) -> int:
        return here + round(here * drift)

    for out, back in ways:
        clock.add(now, there_is(now + out), there_is(now + out), now + out + back)
        now += out + back
        assert abs(clock.to_local(there_is(now)) - now) <= clock.error_ns(now) + 3
        now += 1000 * MS


def test_a_clock_that_jumps_is_followed_immediately() -> None:
    clock = RemoteClock()
    now = trip(clock, 0, 0, MS, MS)
    now = trip(clock, 5000 * MS, now, 20 * MS, 20 * MS)
    assert abs(clock.to_local(now + 5000 * MS) - now) <= 20 * MS


def test_impossible_times_leave_the_clock_unchanged() -> None:
    clock = RemoteClock()
    assert not clock.known
    clock.add(0, 100, 50, 200)  # answered before it arrived
    clock.add(0, 0, 500, 200)  # the other host took longer than the whole trip
    assert not clock.known
    assert clock.to_local(7) == 7
