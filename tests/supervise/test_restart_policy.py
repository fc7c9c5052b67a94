"""When a process that ended is started again, on the test's own clock."""

import itertools

import pytest

from billiards_shm.supervise.restart import RESTARTS_IN_WINDOW, STEADY_SEC, WINDOW_SEC, RestartPolicy


def starts(policy: RestartPolicy, ends_after: float, until: float, captured_sec: float = 0.0) -> list[float]:
    """Times of the starts of a process that always ends `ends_after` seconds after its start."""
    now, found = 0.0, []
    while now < until:
        now += ends_after
        now += policy.next_delay(now, captured_sec)
        found.append(now)
    return found


def test_the_first_restart_is_soon_and_the_next_ones_later_and_later() -> None:
    policy = RestartPolicy()
    delays = [policy.next_delay(1000.0 * number, 0.0) for number in range(12)]
    assert 0.5 <= delays[0] <= 0.75
    assert all(later > earlier for earlier, later in itertools.pairwise(delays[:6]))
    assert all(20 <= delay <= 30 for delay in delays[7:])


@pytest.mark.parametrize("captured_sec", [0.0, 5.0, STEADY_SEC])
@pytest.mark.parametrize("ends_after", [0.0, 0.3, 2.0])
def test_there_are_never_more_than_five_restarts_in_any_minute(ends_after: float, captured_sec: float) -> None:
    found = starts(RestartPolicy(), ends_after, 3600.0, captured_sec)
    for first in found:
        assert sum(first <= each < first + WINDOW_SEC - 1e-6 for each in found) <= RESTARTS_IN_WINDOW


def test_it_goes_on_forever_and_reports_when_the_limit_makes_it_wait() -> None:
    policy = RestartPolicy()
    limited = []
    now = 0.0
    for _ in range(6):
        now += policy.next_delay(now, STEADY_SEC)  # the caller reports that each worked, and each ends immediately
        limited.append(policy.limited)
    assert limited == [False] * 5 + [True]
    # After a day there is still a next start, within a minute.
    assert starts(policy, 1.0, 86400.0)[-1] >= 86400.0
    assert policy.next_delay(90000.0, 0.0) <= WINDOW_SEC


def test_a_process_that_worked_for_long_is_started_again_soon() -> None:
    policy = RestartPolicy()
    for number in range(10):
        policy.next_delay(100.0 * number, 0.0)
    assert policy.next_delay(5000.0, STEADY_SEC - 1) > 20
    assert policy.next_delay(6000.0, STEADY_SEC) <= 0.75
    assert not policy.limited
