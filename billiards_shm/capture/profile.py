"""Where the time of each frame goes: waiting for its turn, grabbing, retrieving, publishing."""

import time
from collections import deque
from pathlib import Path
from typing import Final

from billiards_shm.capture.stats import percentile
from billiards_shm.sources.protocol import FrameSource, Image, NativeSource, RecordedFrame, SourceDetails

__all__ = ["PHASES", "FrameProfile"]

PHASES: Final = ("wait", "grab", "retrieve", "publish")
"""`wait` is all other time: the pace of a recording, statistics, frames that were not published."""
PROFILED_FRAMES: Final = 100_000
_NS_PER_MS: Final = 1e6


class FrameProfile:
    """Durations of the phases of every published frame; of the last 100,000."""

    def __init__(self) -> None:
        self._frames: deque[tuple[int, ...]] = deque(maxlen=PROFILED_FRAMES)
        self._ended_ns: int | None = None
        self._grab_ns = 0
        self._retrieve_ns = 0

    def watching(self, source: FrameSource) -> FrameSource:
        """Wrap `source` so that this profile knows how long its calls take."""
        return _WatchedNativeSource(source, self) if isinstance(source, NativeSource) else _WatchedSource(source, self)

    def grabbed(self, took_ns: int) -> None:
        """Note how long a grab took; a failed grab counts as waiting."""
        self._grab_ns, self._retrieve_ns = took_ns, 0

    def retrieved(self, took_ns: int) -> None:
        """Note how long the source took to deliver the pixels."""
        self._retrieve_ns += took_ns

    def published(self, now_ns: int, took_ns: int) -> None:
        """Note that a frame was published, and how long that took without `retrieved`."""
        # The wait for the first frame is the time that opening took.
        if self._ended_ns is not None:
            busy = self._grab_ns + self._retrieve_ns + took_ns
            waited = max(0, now_ns - self._ended_ns - busy)
            self._frames.append((waited, self._grab_ns, self._retrieve_ns, took_ns))
        self._ended_ns = now_ns

    def milliseconds(self) -> dict[str, tuple[float, ...]]:
        """By phase: every frame's duration in milliseconds, oldest first."""
        columns = zip(*self._frames, strict=True) if self._frames else ((),) * len(PHASES)
        return {phase: tuple(ns / _NS_PER_MS for ns in column) for phase, column in zip(PHASES, columns, strict=True)}

    def fields(self) -> dict[str, float]:
        """Percentiles as named values: ``grab_p50_ms`` and so on, and how many frames there were."""
        found: dict[str, float] = {"profiled_frames": len(self._frames)}
        for phase, durations in self.milliseconds().items():
            ordered = sorted(durations)
            found[f"{phase}_p50_ms"] = percentile(ordered, 0.50)
            found[f"{phase}_p99_ms"] = percentile(ordered, 0.99)
        return found

    def line(self) -> str:
        """The profile as the log has it."""
        values = self.fields()
        phases = ", ".join(
            f"{phase}_p50={values[f'{phase}_p50_ms']:.3f}ms, {phase}_p99={values[f'{phase}_p99_ms']:.3f}ms"
            for phase in PHASES
        )
        return f"Profile: frames={len(self._frames)}, {phases}"

    def save_plot(self, path: Path) -> None:
        """Plot each frame's phases, stacked, and the distribution of each phase.

        Parameters
        ----------
        path : Path
            A PNG, SVG or PDF file, by its suffix.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        OSError, ValueError
            The file cannot be written, or not in this format.
        """
        from matplotlib.figure import Figure

        durations = self.milliseconds()
        figure = Figure(figsize=(11, 4.5), layout="constrained")
        over_time, distribution = figure.subplots(1, 2, width_ratios=(2, 1))
        over_time.stackplot(range(len(self._frames)), *durations.values(), labels=PHASES)
        over_time.set(xlabel="frame", ylabel="ms", title="where the time of each frame went")
        over_time.legend(loc="upper right")
        for phase, values in durations.items():
            ordered = sorted(values)
            distribution.plot(ordered, [(rank + 1) / len(ordered) for rank in range(len(ordered))], label=phase)
        distribution.set(xscale="log", xlabel="ms", ylabel="share of frames", title="distribution")
        figure.savefig(path)


class _WatchedSource:
    """A source, with a stopwatch at `grab` and `retrieve`."""

    def __init__(self, source: FrameSource, profile: FrameProfile) -> None:
        self._source = source
        self._profile = profile

    @property
    def details(self) -> SourceDetails:
        return self._source.details

    @property
    def position_ms(self) -> float | None:
        return self._source.position_ms

    @property
    def timestamp_ms(self) -> float | None:
        return getattr(self._source, "timestamp_ms", None)

    @property
    def recorded(self) -> RecordedFrame | None:
        return getattr(self._source, "recorded", None)

    @property
    def sent_ns(self) -> int | None:
        return getattr(self._source, "sent_ns", None)

    @property
    def damaged(self) -> bool:
        return getattr(self._source, "damaged", False)

    @property
    def frames_left(self) -> int | None:
        return self._source.frames_left

    def grab(self) -> bool:
        began = time.monotonic_ns()
        grabbed = self._source.grab()
        self._profile.grabbed(time.monotonic_ns() - began)
        return grabbed

    def retrieve(self, target: Image | None) -> Image | None:
        began = time.monotonic_ns()
        image = self._source.retrieve(target)
        self._profile.retrieved(time.monotonic_ns() - began)
        return image

    def release(self) -> None:
        self._source.release()


class _WatchedNativeSource(_WatchedSource):
    """The same for a source that has native frames."""

    @property
    def native_format(self) -> str:
        assert isinstance(self._source, NativeSource)
        return self._source.native_format

    @property
    def flaw(self) -> str:
        assert isinstance(self._source, NativeSource)
        return self._source.flaw

    def retrieve_native(self, target: Image | None) -> Image | None:
        assert isinstance(self._source, NativeSource)
        began = time.monotonic_ns()
        image = self._source.retrieve_native(target)
        self._profile.retrieved(time.monotonic_ns() - began)
        return image
