"""A receiver that chooses the codec, on a link that gets slow."""

import pytest
from hosts import Network
from mirrored import SCRIPT, Copy, receive, send
from segments_under_test import wait_until

from billiards_shm import inspect_segment

pytestmark = pytest.mark.slow  # as root


def test_the_codec_follows_the_link() -> None:
    with Network() as network:
        here, there = network.host("table"), network.host("vision")
        here.start(SCRIPT, "capture", "demo", "--name", "table_1", "--resolution", "1280x720")
        send(here, "table_1")
        receive(there, "table_1@table")
        with Copy(there) as copy:

            def is_sent_as(codec: str) -> bool:
                copy.next()
                return inspect_segment(copy.name).backend == f"Zenoh {codec}"

            copy.next()
            here.limit(10)
            wait_until(lambda: is_sent_as("h264"), "the choice for a slow link")
            # The link is measured several times meanwhile. It must not seem faster than it is.
            assert all(is_sent_as("h264") for _ in range(600))


def test_a_link_too_slow_for_a_jpeg_a_second_gets_another_codec() -> None:
    with Network() as network:
        here, there = network.host("table"), network.host("vision")
        here.start(SCRIPT, "capture", "demo", "--name", "table_1", "--resolution", "1280x720")
        here.limit(0.6)
        send(here, "table_1")
        receive(there, "table_1@table")
        with Copy(there) as copy:
            assert copy.next()
            assert wait_until(lambda: inspect_segment(copy.name).backend, "what it was sent as") == "Zenoh jpeg"
            wait_until(lambda: copy.next() and inspect_segment(copy.name).backend == "Zenoh h264", "the choice")
