"""Detects a frozen picture: some drivers repeat the last frame after their camera is gone."""

import zlib
from typing import Final

from billiards_shm.sources.protocol import Image

__all__ = ["FrozenPicture"]

LONGEST_GROWTH: Final = 64
COMPARE_INTERVAL_NS: Final = 1_000_000_000
_GRID: Final = 24
_NS_PER_SEC: Final = 1e9


class FrozenPicture:
    """Notices that frames have been identical for too long.

    A working sensor is noisy, so its frames differ even if nothing moves. A few hundred pixels tell most frames apart.
    Only while these stay the same are all pixels compared, once a second.

    A picture that is the same after the source was reopened may be a still life: the limit doubles each time, up to 64
    times its value, so that the source is not reopened again and again.

    Parameters
    ----------
    limit_sec : float
        How long frames may be identical; 0.0: forever.
    """

    def __init__(self, limit_sec: float) -> None:
        self.limit_sec = limit_sec
        self._limit_ns = round(limit_sec * _NS_PER_SEC)
        self._growth = 1
        self._sample = b""
        self._checksum: int | None = None
        self._since_ns = 0
        self._next_comparison_ns = 0

    def same_for_sec(self, now_ns: int) -> float:
        """Seconds for which frames have been identical."""
        return (now_ns - self._since_ns) / _NS_PER_SEC

    def is_frozen(self, image: Image, now_ns: int) -> bool:
        """Compare a frame with those before; True if it is time to reopen the source."""
        if not self._limit_ns:
            return False
        sample = image[:: max(1, image.shape[0] // _GRID), :: max(1, image.shape[1] // _GRID)].tobytes()
        if sample != self._sample:
            self._sample = sample
            self._changed(now_ns)
            return False
        if now_ns >= self._next_comparison_ns:
            self._next_comparison_ns = now_ns + min(COMPARE_INTERVAL_NS, self._limit_ns // 4)
            # Rows are contiguous even where the whole is not.
            checksum = 0
            for row in [image] if image.flags.c_contiguous else list(image):
                checksum = zlib.crc32(row.data, checksum)
            if self._checksum is not None and checksum != self._checksum:
                self._changed(now_ns)
            self._checksum = checksum
        if now_ns - self._since_ns < self._limit_ns * self._growth:
            return False
        self._since_ns = now_ns
        self._growth = min(2 * self._growth, LONGEST_GROWTH)
        return True

    def _changed(self, now_ns: int) -> None:
        self._checksum = None
        self._since_ns = now_ns
        self._next_comparison_ns = now_ns
        self._growth = 1
