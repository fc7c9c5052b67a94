"""Another thread opens, writes and closes files in order, and reports what goes wrong there."""

import errno
import threading
from pathlib import Path

import pytest
from segments_under_test import wait_until

from billiards_shm.encoder import EncodedFrame, StreamFormat
from billiards_shm.record import writing
from billiards_shm.record.writing import WritingThread


def encoded(number: int, size: int = 10) -> EncodedFrame:
    return EncodedFrame(bytes(size), True, number * 1000, number, number, number, None)


STREAM = StreamFormat("mjpeg", 64, 48)


class Output:
    """A file on a disk that opens, writes and closes when the test lets it."""

    duration_s = 0.0
    bytes = 0

    def __init__(self, disk: "Disk", first: EncodedFrame) -> None:
        self.path = Path(f"/nowhere/{first.sequence}.mkv")
        self.written: list[int] = []
        self._disk = disk
        disk.does(f"open {first.sequence}")

    @property
    def frames(self) -> int:
        return len(self.written)

    def write(self, frame: EncodedFrame) -> None:
        self._disk.does("write")
        self.written.append(frame.sequence)

    def close(self) -> None:
        self._disk.does(f"close {self.path.stem}")


class Disk:
    """The disk that the thread writes to."""

    def __init__(self, full_after: int = 10**9) -> None:
        self.answers = threading.Event()
        self.files: list[Output] = []
        self.done: list[str] = []
        self._full_after = full_after
        self.thread = WritingThread("table_1", self._open)  # type: ignore[arg-type]

    def does(self, what: str) -> None:
        assert self.answers.wait(40)
        if self.done.count("write") >= self._full_after and not what.startswith("close"):
            raise OSError(errno.ENOSPC, "No space left on device")
        self.done.append(what)

    def _open(self, stream: StreamFormat, first: EncodedFrame) -> Output:
        assert stream is STREAM
        self.files.append(Output(self, first))
        return self.files[-1]

    def give(self, *numbers: int, size: int = 10) -> None:
        """Hand frames to the thread; the first one begins a file."""
        for number in numbers:
            self.thread.write(encoded(number, size), STREAM if number == numbers[0] else None)


def test_an_unresponsive_disk_delays_no_frame_and_all_are_written_in_the_end() -> None:
    disk = Disk()
    disk.give(*range(1000))
    disk.give(*range(1000, 1100))
    disk.thread.end_file()
    disk.thread.end_file()
    disk.give(*range(1100, 1200))
    assert disk.done == []
    disk.answers.set()
    disk.thread.close()
    disk.thread.close()
    assert [file.written for file in disk.files] == [
        list(range(1000)),
        list(range(1000, 1100)),
        list(range(1100, 1200)),
    ]
    order = [what for what in disk.done if what != "write"]
    assert order == ["open 0", "close 0", "open 1000", "close 1000", "open 1100", "close 1100"]
    assert disk.thread.files == 3
    assert disk.thread.take_longest_write_s() > 0
    assert disk.thread.take_longest_write_s() == 0


def test_frames_beyond_the_memory_limit_wait_whatever_the_number_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "LARGEST_QUEUE", 100)
    disk = Disk()
    given: list[int] = []

    def give() -> None:
        for number in range(30):
            disk.give(number)
            given.append(number)

    giving = threading.Thread(target=give)
    giving.start()
    wait_until(lambda: len(given) == 11, "a full queue")
    assert giving.is_alive()
    disk.answers.set()
    giving.join(40)
    disk.thread.close()
    assert [file.written for file in disk.files] == [[number] for number in range(30)]
    assert disk.thread._waiting_bytes == 0


def test_an_error_is_reported_immediately_and_with_the_next_frame_and_at_the_end() -> None:
    disk = Disk(full_after=3)
    disk.answers.set()
    disk.give(*range(4))
    wait_until(lambda: disk.thread._error, "the error")
    for call in (disk.thread.check, lambda: disk.give(5), disk.thread.end_file, disk.thread.close, disk.thread.close):
        with pytest.raises(OSError, match="No space left on device: the recording stopped after 3 frames") as raised:
            call()
        assert raised.value.filename == "/nowhere/0.mkv"
    assert disk.files[0].written == [0, 1, 2]
    assert disk.done[-1] == "close 0"
    assert disk.thread.file is None


def test_a_file_that_cannot_be_opened_ends_the_recording_after_the_previous_one() -> None:
    disk = Disk(full_after=3)
    disk.give(*range(3))
    disk.give(3)
    disk.answers.set()
    with pytest.raises(OSError, match="No space left on device"):
        disk.thread.close()
    assert [file.written for file in disk.files] == [[0, 1, 2]]
    assert disk.done[-1] == "close 0"


def test_a_caller_waiting_for_room_gets_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "LARGEST_QUEUE", 15)
    disk = Disk(full_after=0)
    disk.give(0, 1)
    threading.Timer(0.05, disk.answers.set).start()
    with pytest.raises(OSError, match="No space left"):
        disk.give(2)
    with pytest.raises(OSError, match="No space left"):
        disk.thread.close()
