"""Minutes of mischief: a supervised source is killed, hung, resized and taken away at random, and a reader survives.

BILLIARDS_SOAK_SEC sets the duration, BILLIARDS_SOAK_SEED the choice of mischief.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from segments_under_test import descriptors, wait_until
from supervised_runs import DEMO, SHORT_HANG_SEC, SupervisedRun, gone, published, send, writer_of
from videos import make_clip

from billiards_shm import SegmentNotFoundError, SharedMemoryFrameReader, inspect_segment

SECONDS = float(os.environ.get("BILLIARDS_SOAK_SEC", "20"))
SEED = int(os.environ.get("BILLIARDS_SOAK_SEED", "5"))
SIZES = ((64, 48), (160, 120), (320, 240))
FRESH_SEC = 1.0

Mischief = Callable[[], None]


class Follower:
    """A following reader in a thread, which checks that every frame is newer than the previous one."""

    def __init__(self, name: str) -> None:
        self.reader = SharedMemoryFrameReader(name)
        self.frames = 0
        self.sizes: Counter[tuple[int, ...]] = Counter()
        self.failure: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            last = (0, 0)
            for frame, metadata in self.reader.frames(follow=True):
                now = (metadata.sequence, metadata.publish_time_ns)
                assert now > last, f"frame {now} came after {last}"
                last = now
                self.frames += 1
                self.sizes[frame.shape] += 1
                if self._over.is_set():
                    return
        except BaseException as error:
            self.failure = error

    def is_fresh(self) -> bool:
        """Whether it sees the current state of the source."""
        assert self.failure is None, self.failure
        age = self.reader.last_frame_age
        return age is not None and age < FRESH_SEC

    def end(self) -> None:
        self._over.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self.reader.close()
        assert self.failure is None, self.failure


def resident_mb(process: psutil.Process) -> float:
    return process.memory_info().rss / 1e6


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 240)
def test_a_reader_and_a_neighbour_survive_random_mischief(tmp_path: Path, segment_name: str) -> None:
    chance = random.Random(SEED)
    clips = [make_clip(tmp_path / f"size-{number}.avi", 50, size) for number, size in enumerate(SIZES)]
    source = tmp_path / "source.avi"
    source.symlink_to(clips[0])
    neighbour = f"{segment_name}-neighbour"

    def resize() -> None:
        (tmp_path / "next.avi").symlink_to(chance.choice(clips))
        (tmp_path / "next.avi").replace(source)

    def take_away() -> None:
        source.unlink()
        time.sleep(chance.uniform(1.0, 3.0))
        source.symlink_to(chance.choice(clips))

    def kill(number: int = signal.SIGKILL) -> None:
        pid = writer_of(segment_name)
        send(pid, number)
        # The hang does not finish it: while it is being ended it may show a frame.
        wait_until(lambda: published(segment_name) and writer_of(segment_name) != pid, "another process")

    def hang() -> None:
        kill(signal.SIGSTOP)

    mischief: list[Mischief] = [resize, take_away, kill, hang]
    cameras = {segment_name: {"device_id": str(source), "reconnect_max_delay_sec": 1.0}, neighbour: DEMO}
    files = descriptors()
    done: Counter[str] = Counter()
    recoveries: list[float] = []
    memory: list[tuple[float, float]] = []
    with SupervisedRun(tmp_path, cameras, hang_timeout=SHORT_HANG_SEC) as supervised:
        supervised.start().streams()
        follower = Follower(segment_name)
        wait_until(follower.is_fresh)
        supervisor, writer, began = supervised.supervisor, writer_of(neighbour), time.monotonic()
        while (elapsed := time.monotonic() - began) < SECONDS:
            act, acted = chance.choice(mischief), time.monotonic()
            act()
            done[act.__name__] += 1
            # Delays and the limit of restarts add up to a minute at most.
            wait_until(follower.is_fresh, f"recovery from {act.__name__}")
            recoveries.append(time.monotonic() - acted)
            time.sleep(chance.uniform(0.5, 4.0))
            memory.append((resident_mb(supervisor), resident_mb(psutil.Process())))
            print(f"{elapsed:6.1f} s {act.__name__:9} recovered in {recoveries[-1]:5.1f} s, "
                  f"supervisor {memory[-1][0]:.1f} MB, reader {memory[-1][1]:.1f} MB")  # fmt: skip
        wait_until(follower.is_fresh, "a fresh frame in the end")
        assert writer_of(neighbour) == writer
        assert published(neighbour) > SECONDS * 25
        assert psutil.STATUS_ZOMBIE not in [process.status() for process in supervisor.children()]
        assert len(supervisor.children()) == 2
        kept = supervisor.num_fds()
        pids = [process.pid for process in supervisor.children()]
        follower.end()
        assert supervised.end() == 0
    print(f"{sum(done.values())} acts ({dict(done)}), {follower.frames} frames of {len(follower.sizes)} sizes, "
          f"longest recovery {max(recoveries):.1f} s, supervisor has {kept} descriptors")  # fmt: skip
    assert all(gone(pid) for pid in pids)
    assert kept < 25
    assert descriptors() <= files + 2
    # The descriptors after the first acts are the same as at the end.
    assert memory[-1][0] < memory[min(2, len(memory) - 1)][0] + 8
    assert memory[-1][1] < memory[min(2, len(memory) - 1)][1] + 32
    for name in (segment_name, neighbour):
        with pytest.raises(SegmentNotFoundError):
            inspect_segment(name)
