"""A mirrored segment compared with bare Zenoh and FFmpeg over UDP, on hosts in a network on this machine. As root.

    python -m bench.mirror                   1080p at 30 fps; four minutes
    python -m bench.mirror --quick           half a minute; few samples
    python -m bench.mirror --docs            also write the figures and the plot of docs/mirror-figures.md
    python -m bench.mirror --json FILE       store the figures, each age among them

Ages are from capture to a BGR array in the hands of a reader on the other host. The hosts are network namespaces
with one clock, so ages need no clock estimate; unlike on two computers, both ends share the processors:
compare within one run. Prints Markdown.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))

from hosts import Host, Network, Process  # after its folder is on the path

from bench import far, mirror_model, mirror_plots
from bench.capture import cpu_seconds, private_bytes
from bench.document import DOCS
from bench.machine import cores, cpu_name

NAME: Final = "camera"
SLOW: Final = 40
"""Rate of the saturated link, in Mbit/s."""
STOPPED_SEC: Final = 3.0
WARM_SEC: Final = 1.5
RECEIVERS: Final = 4

Ages: TypeAlias = list[float]
"""Milliseconds."""


@dataclass(frozen=True)
class Run:
    """The findings of one measurement."""

    ages: Ages
    fps: float
    clock_errors: Ages
    sender_cpu_ms: float = 0.0
    """Per frame of the source."""
    receiver_cpu_ms: float = 0.0
    """Per frame that arrived."""
    sender_bytes: int = 0
    receiver_bytes: int = 0
    """Private memory of the process."""
    frame_bits: float = 0.0
    """Sent by the origin's network card, per frame that arrived."""


class Sample(NamedTuple):
    """A frame in a reader's hands."""

    number: int
    told_ns: int | None
    at_ns: int


class Bench:
    """Starts roles of `bench.far` and commands on hosts, and ends them.

    Parameters
    ----------
    folder : pathlib.Path
        Where the pictures are.
    seconds : float
        Length of each measurement.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self._environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        # A decoded picture is new memory, which the C library may return and fault in again, page by page, with each
        # frame: 3 ms that come and go. Here every decoder keeps it, so all of them decode alike.
        self._of_roles = self._environment | {
            "MALLOC_TRIM_THRESHOLD_": str(1 << 28),
            "MALLOC_MMAP_THRESHOLD_": str(1 << 27),
        }

    def role(self, host: Host, *arguments: object) -> Process:
        """Start a role."""
        return host.start(sys.executable, "-m", "bench.far", *arguments, env=self._of_roles)

    def program(self, host: Host, *arguments: object) -> Process:
        """Start our command, without a pipe that could fill."""
        command = [sys.executable, "-m", "billiards_shm", *arguments]
        silent = subprocess.DEVNULL
        return host.start(*command, env=self._environment, stdout=silent, stderr=silent)

    def found(self, process: Process) -> dict[str, Any]:
        """The findings of a role that has ended."""
        out, errors = process.communicate(timeout=self.seconds + 90)
        if process.returncode != 0 or not out:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}: {errors}")
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    def begun(self, reader: Process) -> None:
        """Wait until a reader has its first frame and the start is over."""
        assert reader.stdout is not None
        if not reader.stdout.readline():
            raise RuntimeError(f"a reader has ended with {reader.wait()}")
        time.sleep(WARM_SEC)

    def ended(self, process: Process) -> dict[str, Any]:
        """End a role, and return its findings."""
        process.terminate()
        return self.found(process)

    @contextlib.contextmanager
    def mirrored(
        self, origin: Host, targets: list[Host], form: str, codec: str, copy: str = NAME
    ) -> Iterator[tuple[Process, list[Process], Process]]:
        """A source, its sender, and a receiver on each target: sender, receivers, source."""
        source = self.role(origin, "play", self.folder, NAME, form)
        sender = self.program(origin, "mirror", "send", NAME)
        receivers = [
            self.program(
                *(target, "mirror", "receive", f"{NAME}@{origin.name}"),
                *("--as", copy if len(targets) == 1 else f"{copy}{number}", "--codec", codec),
            )
            for number, target in enumerate(targets)
        ]
        try:
            yield sender, receivers, source
        finally:
            for process in (*receivers, sender):
                process.terminate()
            for process in (*receivers, sender):
                process.wait(30)

    def mirror(self, origin: Host, target: Host, form: str, codec: str, copy: str = NAME) -> Run:
        """One frame after another by the mirror."""
        with self.mirrored(origin, [target], form, codec, copy) as (sender, (receiver,), source):
            reader = self.role(target, "read", copy, self.seconds + WARM_SEC)
            self.begun(reader)
            before = cpu_seconds(sender.inner), cpu_seconds(receiver.inner), sent_bytes(origin)
            begun_ns = time.monotonic_ns()
            time.sleep(self.seconds / 2)
            after = cpu_seconds(sender.inner), cpu_seconds(receiver.inner), sent_bytes(origin)
            ended_ns = time.monotonic_ns()
            memory = private_bytes(sender.inner), private_bytes(receiver.inner)
            samples = [Sample(*one) for one in self.found(reader)["seen"]]
            captured = self.ended(source)["captured"]
        run = judge(samples, captured)
        frames = sum(begun_ns <= one.at_ns < ended_ns for one in samples)
        sender_cpu, receiver_cpu, sent = ((now - then) / frames for now, then in zip(after, before, strict=True))
        return Run(run.ages, run.fps, run.clock_errors, sender_cpu * 1e3, receiver_cpu * 1e3, *memory, sent * 8)

    def bare(self, origin: Host, target: Host, form: str) -> Run:
        """One frame after another by Zenoh alone."""
        source = self.role(origin, "send-bare", self.folder, form)
        receiver = self.role(target, "receive-bare", origin.address, form, self.seconds + WARM_SEC)
        samples = [Sample(*one) for one in self.found(receiver)["seen"]]
        self.ended(source)
        return judge(samples, None)

    def ffmpeg(self, origin: Host, target: Host) -> Run:
        """One frame after another by FFmpeg."""
        receiver = self.role(target, "receive-udp", self.seconds + WARM_SEC)
        time.sleep(1.5)  # it cannot report that it is listening
        source = self.role(origin, "send-udp", self.folder, target.address)
        samples = [Sample(*one) for one in self.found(receiver)["seen"]]
        captured = self.ended(source)["captured"]
        return judge([Sample(whole_number(one, captured) + 1, None, one.at_ns) for one in samples], captured)

    def sender_cpu(self, origin: Host, targets: list[Host]) -> float:
        """CPU seconds of the sender per frame that reaches anyone, with that many receivers."""
        with self.mirrored(origin, targets, "bgr", "jpeg") as (sender, _, source):
            readers = [
                self.role(target, "read", NAME if len(targets) == 1 else f"{NAME}{number}", self.seconds + 4)
                for number, target in enumerate(targets)
            ]
            for reader in readers:
                self.begun(reader)
            before, begun_ns = cpu_seconds(sender.inner), time.monotonic_ns()
            time.sleep(self.seconds)
            used, ended_ns = cpu_seconds(sender.inner) - before, time.monotonic_ns()
            seen = [[Sample(*one) for one in self.found(reader)["seen"]] for reader in readers]
            self.ended(source)
        came = [{one.number for one in samples if begun_ns <= one.at_ns < ended_ns} for samples in seen]
        print(f"frames at each of {len(targets)}: {[len(numbers) for numbers in came]}", file=sys.stderr)
        return used / len(set.union(*came))

    def after_a_stop(self, origin: Host, target: Host) -> float:
        """Age of the first frame in a reader's hands after the receiver had been stopped for some seconds."""
        with self.mirrored(origin, [target], "mjpg", "auto") as (_, (receiver,), source):
            reader = self.role(target, "read", NAME, STOPPED_SEC + 5)
            self.begun(reader)
            receiver.send_signal(signal.SIGSTOP)
            time.sleep(STOPPED_SEC)
            continued = time.monotonic_ns()
            receiver.send_signal(signal.SIGCONT)
            samples = [Sample(*one) for one in self.found(reader)["seen"]]
            captured = self.ended(source)["captured"]
        first = next(one for one in samples if one.at_ns > continued)
        return age_ms(first, captured)


def sent_bytes(host: Host) -> int:
    """Bytes that the host has sent over its network."""
    lines = Path(f"/proc/{host.pid}/net/dev").read_text().splitlines()
    counts = next(line.split() for line in lines if line.strip().startswith("eth0:"))
    return int(counts[9])


def age_ms(sample: Sample, captured: list[int] | None) -> float:
    """How old the frame was."""
    taken = sample.told_ns if captured is None else captured[sample.number - 1]
    assert taken is not None
    age_ns: int = sample.at_ns - taken
    return age_ns / 1e6


def whole_number(sample: Sample, captured: list[int]) -> int:
    """The frame's full number, as pictures repeat: the newest one that was captured before."""
    return max(
        number for number in range(sample.number, len(captured), far.PICTURES) if captured[number] < sample.at_ns
    )


def judge(samples: list[Sample], captured: list[int] | None) -> Run:
    """Ages and rate, without the time it takes to connect."""
    settled = [one for one in samples if one.at_ns > samples[0].at_ns + WARM_SEC * 1e9]
    errors = [
        abs(one.told_ns - captured[one.number - 1]) / 1e6
        for one in settled
        if captured is not None and one.told_ns is not None
    ]
    seconds = (settled[-1].at_ns - settled[0].at_ns) / 1e9
    return Run([age_ms(one, captured) for one in settled], (len(settled) - 1) / seconds, errors)


# What is measured.


def measure(bench: Bench, rounds: int) -> dict[str, Any]:
    """Everything, the contestants in turn in each round."""
    found: dict[str, dict[str, list[Run]]] = {"free": {}, "slow": {}, "loopback": {}}

    def note(where: str, what: str, run: Run) -> None:
        found[where].setdefault(what, []).append(run)
        print(f"{where}, {what}: {np.percentile(run.ages, 50):.1f} ms, {run.fps:.1f} fps", file=sys.stderr, flush=True)

    for _ in range(rounds):
        with Network() as network:
            origin, target = network.host("table"), network.host("office")
            for where in ("free", "slow"):
                if where == "slow":
                    origin.limit(SLOW)
                note(where, "mirror, MJPG", bench.mirror(origin, target, "mjpg", "auto" if where == "free" else "mjpg"))
                note(where, "bare Zenoh", bench.bare(origin, target, "mjpg"))
                note(where, "mirror, H.264", bench.mirror(origin, target, "bgr", "h264"))
                note(where, "FFmpeg, H.264 over UDP", bench.ffmpeg(origin, target))
                if where == "free":
                    note(where, "mirror, JPEG", bench.mirror(origin, target, "bgr", "jpeg"))
        with Network() as network:
            alone = network.host("table")
            note("loopback", "mirror, raw", bench.mirror(alone, alone, "bgr", "raw", "copy"))
            note("loopback", "bare Zenoh, raw", bench.bare(alone, alone, "bgr"))
    with Network() as network:
        origin, *targets = (network.host(f"host{number}") for number in range(1 + RECEIVERS))
        cpu = {count: bench.sender_cpu(origin, targets[:count]) for count in (1, RECEIVERS)}
        stopped = bench.after_a_stop(origin, targets[0])
    return {
        "runs": {where: {what: summary(runs) for what, runs in by.items()} for where, by in found.items()},
        "sender_cpu": {str(count): seconds for count, seconds in cpu.items()},  # as in JSON
        "after_a_stop_ms": stopped,
    }


def summary(runs: list[Run]) -> dict[str, Any]:
    """The medians of the rounds; the ages of all."""
    middle = {
        key: statistics.median(getattr(run, key) for run in runs)
        for key in ("fps", "sender_cpu_ms", "receiver_cpu_ms", "sender_bytes", "receiver_bytes", "frame_bits")
    }
    found: dict[str, Any] = {
        "p50": statistics.median(float(np.percentile(run.ages, 50)) for run in runs),
        "p99": statistics.median(float(np.percentile(run.ages, 99)) for run in runs),
        "p50_of_rounds": [float(np.percentile(run.ages, 50)) for run in runs],
        "ages": sorted(age for run in runs for age in run.ages),
        **middle,
    }
    if errors := [error for run in runs for error in run.clock_errors]:
        found["clock_p50"], found["clock_p99"] = (float(np.percentile(errors, share)) for share in (50, 99))
    return found


def verdicts(figures: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """What was measured, the target, the figure, and whether the target is met."""
    free, slow, loopback = (figures["runs"][where] for where in ("free", "slow", "loopback"))
    rows = []

    def row(what: str, unit: str, found: float, most: float) -> None:
        rows.append((what, f"at most {most:g}{unit}", f"{found:.2f}{unit}", found <= most))

    def ratio(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
        pairs = zip(ours["p50_of_rounds"], theirs["p50_of_rounds"], strict=True)
        return float(statistics.median(one / other for one, other in pairs))

    mirror = free["mirror, MJPG"]
    row("free link, age p50 against bare Zenoh", " x", ratio(mirror, free["bare Zenoh"]), 1.15)
    row("free link, age p50", " ms", mirror["p50"], 15)
    row("free link, age p50 against FFmpeg over UDP", " x", ratio(mirror, free["FFmpeg, H.264 over UDP"]), 0.25)
    row(f"{SLOW} Mbit/s, age p50 against bare Zenoh", " x", ratio(slow["mirror, MJPG"], slow["bare Zenoh"]), 1.15)
    row(f"{SLOW} Mbit/s, age p50 by H.264", " ms", slow["mirror, H.264"]["p50"], 20)
    one, many = (figures["sender_cpu"][count] for count in figures["sender_cpu"])
    row(f"{RECEIVERS} receivers of one source, sender's CPU against one", " x", many / one, 1.5)
    row("clock error at the far end, free link, p99", " ms", mirror["clock_p99"], 2)
    row(
        "raw on loopback, age p50 against bare Zenoh",
        " x",
        ratio(loopback["mirror, raw"], loopback["bare Zenoh, raw"]),
        1.3,
    )
    return rows


def as_markdown(figures: dict[str, Any]) -> str:
    """The tables."""
    lines = ["| what | target | found | |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {most} | {found} | {'met' if met else 'missed'} |" for what, most, found, met in verdicts(figures)
    ]
    lines += ["", "| link | by | age p50 | p99 | fps | Mbit/s | CPU a frame, sender | receiver |", "|---|" + "---|" * 7]
    for where, by in figures["runs"].items():
        for what, run in by.items():
            cpu = (f"{run[key]:.1f} ms" if run[key] else "" for key in ("sender_cpu_ms", "receiver_cpu_ms"))
            rate = f"{run['frame_bits'] * run['fps'] / 1e6:.0f}" if run["frame_bits"] else ""
            lines.append(
                f"| {where} | {what} | {run['p50']:.1f} ms | {run['p99']:.1f} ms | {run['fps']:.1f} | {rate} | "
                f"{' | '.join(cpu)} |"
            )
    lines += [
        "",
        f"first frame after the receiver was stopped for {STOPPED_SEC:g} s: {figures['after_a_stop_ms']:.0f} ms old",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Measure a mirrored segment.")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2, help="of all contestants in turn")
    parser.add_argument("--quick", action="store_true", help="few samples")
    parser.add_argument("--json", type=Path, help="where to store the figures")
    parser.add_argument("--from-json", type=Path, help="do not measure: use these figures of an earlier run")
    parser.add_argument("--docs", action="store_true", help="also write figures and plot of docs/mirror-figures.md")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.rounds = 3.0, 1
    if options.from_json:
        figures = json.loads(options.from_json.read_text())
    else:
        figures = measure_all(options.seconds, options.rounds)
    print(f"{figures['machine']}\n\n{as_markdown(figures)}")
    if options.json:
        options.json.write_text(json.dumps(figures) + "\n")
    if options.docs:
        write_docs(figures)


def measure_all(seconds: float, rounds: int) -> dict[str, Any]:
    """Make the pictures, measure, and describe the machine."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        far.make_pictures(folder)
        size = statistics.mean(len(jpeg) for jpeg in far.jpegs(folder))
        figures = measure(Bench(folder, seconds), rounds)
    machine = (
        f"{cpu_name()}, {cores()} cores, Linux {platform.release()}, Python {platform.python_version()}; load before "
        f"{load:.1f}; 1080p at {far.FPS} fps, JPEGs of {size / 1e3:.0f} kB; medians of {rounds} rounds of {seconds:g} s"
    )
    return {"machine": machine, **figures}


def write_docs(figures: dict[str, Any]) -> None:
    """What docs/mirror-figures.md shows."""
    runs = {
        where: {what: {key: value for key, value in run.items() if key != "ages"} for what, run in by.items()}
        for where, by in figures["runs"].items()
    }
    kept = {**figures, "runs": runs}
    mirror_model.FIGURES.write_text(
        json.dumps(
            {
                **kept,
                "verdicts": verdicts(figures),
                "costs": mirror_model.cost_rows(kept),
                "model": mirror_model.rows(kept),
            },
            indent=1,
        )
        + "\n"
    )
    mirror_plots.draw(figures, DOCS / "plots")
    subprocess.run([sys.executable, DOCS / "generate.py"], check=True)


if __name__ == "__main__":
    main()
