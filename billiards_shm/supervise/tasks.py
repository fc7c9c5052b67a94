"""What supervised processes do. Each kind of task says how its process is started, and how it is judged."""

import contextlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from billiards_shm import BilliardsShmError, inspect_segment, remove_stale_segments
from billiards_shm.config.address import SourceAddress
from billiards_shm.config.model import MirroredConfig, RecordConfig, Settings, SourceConfig, native_name, segment_names
from billiards_shm.mirror.keys import Wanted
from billiards_shm.monitor.health import living_writer
from billiards_shm.record.places import recording_process

__all__ = ["CaptureTask", "ReceiveTask", "RecordTask", "SendTask", "Task"]


class Task(ABC):
    """What one supervised process does. A new kind needs a class here, and a function in `supervise.child`."""

    kind: ClassVar[str]
    """The name of that function in `supervise.child.RUNNERS`."""
    beside_sources: ClassVar[bool] = True
    """Whether it runs alongside the sources, as long as they are captured. The tasks that capture them do not."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the segment."""

    @property
    def label(self) -> str:
        """Its name in log and table."""
        return f"{self.name} {self.kind}"

    @property
    @abstractmethod
    def source(self) -> str:
        """What it works on, for people."""

    @abstractmethod
    def job(self, frames_done: int) -> dict[str, Any]:
        """What the process has to do, as JSON with ``settings``; earlier processes handled `frames_done` frames."""

    def taken_by(self) -> int | None:
        """Process that has to end before this one can start."""
        return None

    def captured(self, pid: int) -> int | None:
        """Frames that a process has captured, as seen from outside; None if that cannot be seen."""
        return None

    @abstractmethod
    def stopped(self) -> None:
        """Clean up: its process has ended, and no other follows."""


class WritingTask(Task):
    """A source: a process that publishes frames in its own segment."""

    beside_sources = False

    @property
    def segments(self) -> list[str]:
        """Names of its segments."""
        return [self.name]

    def taken_by(self) -> int | None:
        """The process that has the name."""
        return living_writer(self.name)

    def captured(self, pid: int) -> int | None:
        """Frames that the process has captured. Placeholders do not count: they go on while the source hangs."""
        with contextlib.suppress(BilliardsShmError):
            info = inspect_segment(self.name)
            return info.captured if info.writer_pid == pid else None
        return None

    def stopped(self) -> None:
        """Remove segments that the process could not close: no successor takes them over."""
        for name in self.segments:
            with contextlib.suppress(BilliardsShmError):
                remove_stale_segments([name])


@dataclass(frozen=True)
class CaptureTask(WritingTask):
    """Captures a source."""

    settings: Settings
    """For everything but name and camera."""
    config: SourceConfig
    frames: int | None = None
    """Frames to finish after."""

    kind = "capture"

    @property
    def segments(self) -> list[str]:
        """With those of its native frames."""
        return segment_names(self.name, self.config.camera.publish)

    @property
    def name(self) -> str:
        """Name of the segment."""
        return self.config.name

    @property
    def label(self) -> str:
        """The name: it stands for its source."""
        return self.name

    @property
    def source(self) -> str:
        """The address, without secrets."""
        return str(SourceAddress.parse(self.config.camera.device_id))

    def job(self, frames_done: int) -> dict[str, Any]:
        """The settings, with this source as the only one."""
        video = self.settings.video
        settings = self.settings.model_copy(
            update={
                "video": video.model_copy(update={"shared_memory_name": self.name, "sources": ()}),
                "vision": self.settings.vision.model_copy(update={"camera": self.config.camera}),
            }
        )
        frames = None if self.frames is None else max(1, self.frames - frames_done)
        return {"settings": settings.model_dump(mode="json", by_alias=True), "frames": frames}


@dataclass(frozen=True)
class RecordTask(Task):
    """Records a source."""

    settings: Settings
    """The whole configuration; this source is recorded as `record` says."""
    config: SourceConfig
    record: RecordConfig

    kind = "record"

    @property
    def name(self) -> str:
        """Name of the segment to record: the one of native frames if there is one, because these cost less."""
        return native_name(self.config.name) if self.config.camera.publish == "both" else self.config.name

    @property
    def source(self) -> str:
        """The file."""
        return self.record.file or ""

    def job(self, frames_done: int) -> dict[str, Any]:
        """The settings, with how this source is recorded."""
        settings = self.settings.model_copy(
            update={
                "video": self.settings.video.model_copy(update={"shared_memory_name": self.name, "sources": ()}),
                "record": self.record.model_copy(update={"follow": True}),
            }
        )
        return {"settings": settings.model_dump(mode="json", by_alias=True)}

    def taken_by(self) -> int | None:
        """The process that keeps a ring of the segment; there is at most one."""
        return recording_process(self.name) if self.record.ring else None

    def stopped(self) -> None:
        """Nothing is left to do: the file plays in any case."""


@dataclass(frozen=True)
class ReceiveTask(WritingTask):
    """Copies a segment of another host, a source like a camera."""

    settings: Settings
    """For everything but the copy."""
    config: MirroredConfig

    kind = "receive"

    @property
    def name(self) -> str:
        """Name of the copy."""
        return self.config.name or Wanted.parse(self.config.origin).segment

    @property
    def label(self) -> str:
        """The name: it stands for its source."""
        return self.name

    @property
    def source(self) -> str:
        """The segment of the other host."""
        return self.config.origin

    def job(self, frames_done: int) -> dict[str, Any]:
        """The settings, with this copy as the only one."""
        settings = self.settings.model_copy(
            update={
                "video": self.settings.video.model_copy(update={"sources": ()}),
                "mirror": self.settings.mirror.model_copy(update={"receive": (self.config,)}),
            }
        )
        return {"settings": settings.model_dump(mode="json", by_alias=True)}


@dataclass(frozen=True)
class SendTask(Task):
    """Offers segments to other hosts."""

    settings: Settings

    kind = "send"

    @property
    def name(self) -> str:
        """Names of the segments."""
        return ", ".join(self.settings.mirror.send)

    @property
    def source(self) -> str:
        """The same."""
        return self.name

    def job(self, frames_done: int) -> dict[str, Any]:
        """The settings."""
        video = self.settings.video.model_copy(update={"sources": ()})
        return {"settings": self.settings.model_copy(update={"video": video}).model_dump(mode="json", by_alias=True)}

    def stopped(self) -> None:
        """Nothing is left to do: offers end with the process."""
