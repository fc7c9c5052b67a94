"""Placeholders: frames that say that the source is away, and why."""

import logging
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from billiards_shm import SourceState
from billiards_shm.capture.publisher import Publisher
from billiards_shm.capture.stats import CaptureStatistics
from billiards_shm.config.address import SourceAddress
from billiards_shm.sources.protocol import Image

__all__ = ["PlaceholderPublisher"]

_GREY: Final = 40

_log = logging.getLogger(__name__)


class PlaceholderPublisher:
    """Draws and publishes placeholders of the last frame's size.

    Parameters
    ----------
    publisher : Publisher
    statistics : CaptureStatistics
    address : SourceAddress
        Of the source that is away.
    draw : callable
        Writes lines of text into an image. It needs OpenCV; without it placeholders are plain.
    """

    def __init__(
        self,
        publisher: Publisher,
        statistics: CaptureStatistics,
        address: SourceAddress,
        draw: Callable[[Image, list[str]], None],
    ) -> None:
        self._publisher = publisher
        self._statistics = statistics
        self._address = address
        self._draw = draw
        self._warned = False

    def __call__(self, state: SourceState, reason: str) -> Callable[[], None]:
        """Draw one, if the size is known from a frame; return what publishes it. May be called from another thread."""
        age = self._statistics.frame_age_s(time.monotonic_ns()) or 0.0
        lines = ["NO PICTURE", str(self._address), reason, f"{state} for {age:.0f} s"]
        return self._publisher.placeholder(lambda width, height: self._picture(width, height, lines))

    def _picture(self, width: int, height: int, lines: list[str]) -> Image:
        image = np.empty((height, width, 3), np.uint8)
        try:
            self._draw(image, lines)
        except ImportError as error:
            image[:] = _GREY
            self._warn_once(error)
        return image

    def _warn_once(self, error: ImportError) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "Placeholders have no text: OpenCV cannot be imported (%s): pip install 'billiards-shm[headless]'",
                error,
            )
