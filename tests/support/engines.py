"""Both engines that read files and URLs, each by its name, and what they deliver from a source."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from billiards_shm.config.model import CameraConfig
from billiards_shm.sources.camera import Camera
from billiards_shm.sources.protocol import FrameSource
from billiards_shm.sources.video import Video

ENGINES = {"OpenCV": Camera, "PyAV": Video}
BACKENDS = {"OpenCV": "ffmpeg", "PyAV": "av"}
"""Their names in the configuration."""


def open_with(engine: str, device_id: int | str | Path, **camera: Any) -> FrameSource:
    device = device_id if isinstance(device_id, int) else str(device_id)
    return ENGINES[engine](CameraConfig.model_validate({"device_id": device, **camera}))


def read_all(source: FrameSource, failures: int = 3) -> Iterator[np.ndarray]:
    """Read until several attempts in a row have failed, each frame into memory of the last one's shape."""
    slot: np.ndarray | None = None
    failed = 0
    try:
        while failed < failures:
            image = source.retrieve(slot) if source.grab() else None
            if image is None:
                failed += 1
                continue
            failed = 0
            elsewhere = slot is not None and image is not slot and image.shape == slot.shape
            assert not elsewhere, "the frame was not put where it was wanted"
            slot = np.zeros_like(image)
            yield image
    finally:
        source.release()


def same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    """Whether all pictures are the same to the last bit."""
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))
