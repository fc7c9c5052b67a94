"""All parts of the report, in order, and how long each of them may take."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from bench import calls, floors, instructions, lap, latency, machine, pressure, readers, start, writes
from bench.contestants import CONTESTANTS, FUTEX, FUTEX_AFTER_COPY, ICEORYX2, OURS, OURS_IN_PLACE
from bench.samples import Distribution
from bench.sizes import SIZES, Shape
from bench.worker import Worker
from bench.writes import Rounds

SWEEP_ROWS = (32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 12288)  # of 3 KiB
UNDER_PRESSURE = (FUTEX, FUTEX_AFTER_COPY, OURS_IN_PLACE, OURS, ICEORYX2)
LARGE = ("1080p", "4k")

Results = dict[str, Any]
Tick = Callable[[str], None]


@dataclass(frozen=True)
class Length:
    """How often, or for how long, each part is measured."""

    write_rounds: int
    write_frames: int
    sweep_rounds: int
    call_rounds: int
    calls: int
    latency_rounds: int
    latency_frames: int
    attached_rounds: int
    thirty_rounds: int
    thirty_seconds: float
    pressure_rounds: int
    pressure_sizes: tuple[str, ...]
    starts: int
    lap_starts: int
    lap_frames: int
    capture_rounds: int
    capture_seconds: float
    clip: tuple[int, int, int, int]  # width, height, frames a second, seconds


FULL = Length(
    write_rounds=20,
    write_frames=50,
    sweep_rounds=10,
    call_rounds=10,
    calls=1000,
    latency_rounds=20,
    latency_frames=50,
    attached_rounds=10,
    thirty_rounds=3,
    thirty_seconds=20.0,
    pressure_rounds=5,
    pressure_sizes=LARGE,
    starts=3,
    lap_starts=9,
    lap_frames=300,
    capture_rounds=3,
    capture_seconds=12.0,
    clip=(3840, 2160, 24, 10),
)
QUICK = Length(
    write_rounds=5,
    write_frames=10,
    sweep_rounds=2,
    call_rounds=4,
    calls=300,
    latency_rounds=2,
    latency_frames=8,
    attached_rounds=3,
    thirty_rounds=1,
    thirty_seconds=1.0,
    pressure_rounds=1,
    pressure_sizes=("4k",),
    starts=1,
    lap_starts=2,
    lap_frames=30,
    capture_rounds=1,
    capture_seconds=2.0,
    clip=(1280, 720, 30, 2),
)


def distributions(found: Rounds) -> dict[str, Any]:
    """The distribution of each subject."""
    return {name: Distribution.of(rounds).as_dict() for name, rounds in found.items()}


def measure_writes(length: Length, tick: Tick) -> Results:
    """`write_frame`, copy kernels and iceoryx2, by size."""
    found = {}
    with Worker() as worker:
        for size, shape in SIZES.items():
            tick(f"writing {size}")
            rounds = worker.call(writes.measure_in_worker, shape, length.write_rounds, length.write_frames, True)
            found[size] = distributions(rounds)
    return found


def measure_sweep(length: Length, tick: Tick) -> list[dict[str, Any]]:
    """Best medians by frame size."""
    found = []
    with Worker() as worker:
        for rows in SWEEP_ROWS:
            shape: Shape = (rows, 1024, 3)
            tick(f"writing {rows * 3 / 1024:.1f} MiB")
            rounds = worker.call(writes.measure_in_worker, shape, length.sweep_rounds, 10, False)
            medians = {name: Distribution.of(one).best_median for name, one in rounds.items()}
            found.append({"bytes": rows * 3072, "ns": medians})
    return found


def measure_calls(length: Length, tick: Tick) -> Results:
    """Single calls, by size."""
    tick("calls")
    with Worker() as worker:
        found = worker.call(calls.measure_in_worker, SIZES, length.call_rounds, length.calls, True)
    return {size: distributions(rounds) for size, rounds in found.items()}


def measure_latency(length: Length, tick: Tick) -> Results:
    """From process to process, all contestants, by size."""
    found = {}
    with ExitStack() as stack:
        pairs = [stack.enter_context(latency.Pair(one)) for one in CONTESTANTS if not one.missing]
        for size, shape in SIZES.items():
            tick(f"from process to process, {size}")
            found[size] = as_results(latency.measure(pairs, shape, length.latency_rounds, length.latency_frames))
    return found


def as_results(measured: latency.Latencies) -> Results:
    """Distributions by contestant, and the failures."""
    return {
        "contestants": {key: samples.as_dict() for key, samples in measured.samples.items()},
        "failed": measured.failed,
    }


def measure_pressure(length: Length, tick: Tick) -> Results:
    """Writing and waking while another process streams through memory."""
    found: Results = {"writes": {}, "latency": {}}
    contestants = [one for one in UNDER_PRESSURE if not one.missing]
    with pressure.streaming(), ExitStack() as stack:
        worker = stack.enter_context(Worker())
        worker.call(pressure.use_first_processor)
        pairs = [stack.enter_context(latency.Pair(one)) for one in contestants]
        for size in length.pressure_sizes:
            tick(f"under memory pressure, {size}")
            rounds = worker.call(
                writes.measure_in_worker, SIZES[size], length.pressure_rounds, length.write_frames, True
            )
            found["writes"][size] = distributions(rounds)
            measured = latency.measure(pairs, SIZES[size], length.pressure_rounds, length.latency_frames)
            found["latency"][size] = as_results(measured)
    return found


def measure_readers(length: Length, tick: Tick) -> Results:
    """What readers cost the writer."""
    tick("readers attached")
    found: Results = {"attached": readers.measure_attached(length.attached_rounds, 300)}
    tick("readers attached, instructions")
    found["instructions"] = count_instructions()
    tick("ten readers at 30 fps")
    found["thirty_fps"] = readers.measure_thirty_fps(length.thirty_rounds, length.thirty_seconds)
    return found


def count_instructions() -> dict[str, int] | str:
    """Instructions to publish, by number of attached readers; or why they are unknown."""
    try:
        with tempfile.TemporaryDirectory() as directory:
            program = instructions.build(Path(directory))
            return {str(many): instructions.count(program, many)["publish"].instructions for many in readers.COUNTS}
    except instructions.ValgrindMissingError as error:
        return str(error)


def measure_start(length: Length, tick: Tick) -> Results:
    """The first frames, by size; of several starts the fastest one."""
    found = {}
    for size in LARGE:
        tick(f"start, {size}")
        starts = [start.measure(SIZES[size]) for _ in range(length.starts)]
        found[size] = min(starts, key=lambda one: sum(one["writer"]["ns"]))
    return found


def measure_lap(length: Length, tick: Tick) -> Results:
    """A reader's first wakes."""
    found = {}
    with ExitStack() as stack:
        pairs = [stack.enter_context(latency.Pair(one)) for one in (OURS, ICEORYX2) if not one.missing]
        for size in LARGE:
            tick(f"a reader's first wakes, {size}")
            wakes = lap.measure(pairs, SIZES[size], length.lap_starts, length.lap_frames)
            found[size] = {key: one.as_dict() for key, one in wakes.items()}
    return found


def measure_capture(length: Length, tick: Tick) -> Results | str:
    """The capture process against a bare loop; or why it could not be measured."""
    try:
        import cv2  # noqa: F401

        from bench import capture
    except ImportError as error:
        return f"{error}: pip install 'billiards-shm[headless]'"
    width, height, fps, seconds = length.clip
    with tempfile.TemporaryDirectory() as directory:
        tick("making a clip")
        video = capture.make_clip(Path(directory), width, height, fps, seconds)
        tick("capture and a bare loop")
        size, median = capture.measure(video, fps, length.capture_seconds, length.capture_rounds)
    return {"size": size, "fps_of_clip": fps, **median}


PARTS: dict[str, Callable[[Length, Tick], Any]] = {
    "writes": measure_writes,
    "sweep": measure_sweep,
    "calls": measure_calls,
    "latency": measure_latency,
    "pressure": measure_pressure,
    "readers": measure_readers,
    "start": measure_start,
    "lap": measure_lap,
    "capture": measure_capture,
}
# Rough shares of the whole time, for the progress bar.
SHARES = {
    "writes": 3, "sweep": 3, "calls": 1, "latency": 40, "pressure": 8, "readers": 25, "start": 2, "lap": 6,
    "capture": 18,
}  # fmt: skip


def run(length: Length, tick: Tick, done: Callable[[str], None]) -> Results:
    """Run every part; between them, check that the machine is quiet. `done` gets the name of each part."""
    floors.library()  # built once, for all later processes
    quietness = machine.Quietness()
    results: Results = {
        "quick": length is not FULL,
        "machine": machine.describe() | machine.describe_moment(),
        "seconds": {},
        "missing": {one.key: one.missing for one in CONTESTANTS if one.missing},
    }
    for name, measure in PARTS.items():
        look_around(quietness, tick)
        begin = monotonic()
        results[name] = measure(length, tick)
        results["seconds"][name] = round(monotonic() - begin, 1)
        done(name)
    results["others_used"] = quietness.shares
    results["quiet"] = quietness.quiet
    return results


def look_around(quietness: machine.Quietness, tick: Tick) -> None:
    """Sleep for half a second: whatever the machine does now is not the benchmark."""
    tick("is anything else running?")
    quietness.begin()
    sleep(0.5)
    quietness.end()
