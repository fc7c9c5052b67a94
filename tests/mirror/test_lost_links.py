"""The link, the host or a process disappears and comes back: readers are told why, and then get new frames."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from hosts import Host, Network, Process
from mirrored import Camera, Copy, at, receive, send
from segments_under_test import wait_until

from billiards_shm import (
    SegmentStatus,
    SharedMemoryFrameReader,
    SourceState,
    inspect_segment,
    remove_stale_segments,
)

pytestmark = pytest.mark.slow  # as root


@dataclass
class Pair:
    """A camera on one host, and its copy on the other."""

    here: Host
    there: Host
    camera: Camera
    sender: Process
    receiver: Process
    copy: Copy


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Network() as network, ExitStack() as stack:
        here, there = network.host("table"), network.host("vision")
        camera = stack.enter_context(Camera(here))
        sender, receiver = send(here), receive(there, "table_1@table")
        copy = stack.enter_context(Copy(there))
        copy.next()
        yield Pair(here, there, camera, sender, receiver, copy)


def goes_on(pair: Pair, before: int) -> None:
    """New frames arrive, with rising numbers, and readers stay attached."""
    metadata = pair.copy.newer_than(before)
    assert pair.copy.status is SegmentStatus.LIVE
    assert metadata.sequence > 1
    wait_until(lambda: pair.copy.source_state == "streaming", "the stream")


@pytest.mark.parametrize(
    "lose", [Host.unplug, Host.cut], ids=["the cable is pulled", "the network breaks further away"]
)
def test_a_lost_link_is_reported_and_recovers_automatically(pair: Pair, lose: Callable[[Host], None]) -> None:
    sequence = pair.copy.next()[1].sequence
    lose(pair.here)
    reason = pair.copy.until_lost()
    assert reason.startswith(("timeout", "not found")), reason
    lost_at = pair.camera.writer.sequence
    pair.here.plug()
    goes_on(pair, lost_at)
    assert pair.copy.next()[1].sequence > sequence


def test_a_sender_that_is_killed_and_started_again_is_found_again(pair: Pair) -> None:
    pair.sender.kill()
    reason = pair.copy.until_lost()
    assert reason.startswith("not found"), reason
    assert pair.here.shared_memory() == ["table_1"], "something else stays after SIGKILL"
    lost_at = pair.camera.writer.sequence
    send(pair.here)
    goes_on(pair, lost_at)


def test_a_sender_that_is_stopped_is_a_timeout_and_goes_on_with_a_new_frame(pair: Pair) -> None:
    pair.sender.send_signal(signal.SIGSTOP)
    reason = pair.copy.until_lost()
    assert reason.startswith(("timeout", "not found")), reason
    lost_at = pair.camera.writer.sequence
    pair.sender.send_signal(signal.SIGCONT)
    goes_on(pair, lost_at)


def test_the_first_frame_after_a_receiver_was_stopped_is_a_new_one(pair: Pair) -> None:
    pair.receiver.send_signal(signal.SIGSTOP)
    pair.copy.read_frame()  # whatever it wrote before
    stopped_at = pair.camera.writer.sequence
    time.sleep(3)  # it is stopped for that long
    continued_at = pair.camera.writer.sequence
    assert continued_at > stopped_at + 10
    pair.receiver.send_signal(signal.SIGCONT)
    _, metadata = pair.copy.next()
    print(f"stopped at {stopped_at}, continued at {continued_at}; the first frame: {metadata.source_sequence}")
    assert metadata.source_sequence > continued_at - 3


def test_a_receiver_that_is_killed_leaves_its_copy_and_nothing_else_and_the_next_one_takes_over(pair: Pair) -> None:
    sequence = pair.copy.next()[1].sequence
    pair.receiver.kill()
    wait_until(lambda: pair.copy.status is SegmentStatus.DEAD, "the death of the writer")
    assert pair.there.shared_memory() == ["table_1"]
    pair.receiver = receive(pair.there, "table_1@table")
    metadata = pair.copy.newer_than(pair.camera.writer.sequence)
    assert metadata.sequence > sequence


def test_a_capture_that_ends_is_the_end_of_the_stream_until_the_next_one_begins(pair: Pair) -> None:
    pair.camera.close()
    reason = pair.copy.until_lost()
    assert reason.startswith("end of stream"), reason
    assert pair.copy.status is SegmentStatus.LIVE
    with Camera(pair.here):
        before = pair.copy.next()[1].sequence
        goes_on(pair, 0)
        assert before > 1


def test_the_end_and_last_frame_of_a_capture_that_ends_between_two_requests_arrive(pair: Pair) -> None:
    path = pair.copy.name
    pair.copy.close()  # so the receiver asks once a second
    asked_at = inspect_segment(path).sequence
    wait_until(lambda: inspect_segment(path).sequence > asked_at + 1, "the pause between two requests")
    pair.camera.close()
    wait_until(lambda: inspect_segment(path).source_state is SourceState.RECONNECTING, "the loss")
    assert inspect_segment(path).source_reason.startswith("end of stream")
    with Copy(pair.there) as reader:
        assert reader.next()[1].source_sequence == pair.camera.writer.sequence


def test_when_both_ends_are_killed_only_the_segments_are_left(pair: Pair) -> None:
    for process in (pair.sender, pair.receiver):
        process.kill()
    for process in (pair.sender, pair.receiver):
        process.wait(30)
    assert (pair.here.shared_memory(), pair.there.shared_memory()) == (["table_1"], ["table_1"])
    remove_stale_segments([at(pair.there, "table_1")])
    send(pair.here)
    receive(pair.there, "table_1@table")
    with SharedMemoryFrameReader(at(pair.there, "table_1")) as reader:
        reader.attach(timeout=40)
