"""The capture loop in the test's own process, without delays, and every frame it published."""

from pathlib import Path
from typing import Any

import numpy as np
from stops import Stop

from billiards_shm import SharedMemoryFrameReader
from billiards_shm.capture.loop import CaptureLoop
from billiards_shm.capture.process import open_source
from billiards_shm.config.load import Settings, load_settings


def settings_for(name: str, device_id: str, **overrides: Any) -> Settings:
    """Settings of one source; overrides are keys of `vision.camera`, or dotted."""
    values = {"reconnect_delay_sec": 0.01, "reconnect_max_delay_sec": 0.01, "device_id": device_id} | overrides
    keys = {key if "." in key else f"vision.camera.{key}": value for key, value in values.items()}
    return load_settings(None, {"video.shared_memory_name": name} | keys, {})[0]


def published(name: str, settings: Settings, frames: int | None = None) -> list[tuple[int, np.ndarray]]:
    """Run the loop on a real source; return sequence and pixels of every frame."""
    reader = SharedMemoryFrameReader(name)
    found: dict[int, np.ndarray] = {}

    class Watching(Stop):
        def wait(self, seconds: float) -> bool:
            if Path("/dev/shm", name).exists():
                frame, metadata = reader.read_frame(copy=True)
                if frame is not None and metadata is not None:
                    found[metadata.sequence] = frame
            return super().wait(seconds)

    loop = CaptureLoop(settings, Watching(), lambda: open_source(settings.vision.camera), frames=frames)
    try:
        loop.run()
        Watching().wait(0)
    finally:
        loop.close()
        reader.close()
    return sorted(found.items(), key=lambda item: item[0])
