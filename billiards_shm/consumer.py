"""A drop-in for ``cv2.VideoCapture`` that reads the shared frames: OpenCV code changes one line."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from billiards_shm.errors import BilliardsShmError
from billiards_shm.jpeg import read_header
from billiards_shm.pixel_formats import PIXEL_FORMATS
from billiards_shm.reader import SharedMemoryFrameReader
from billiards_shm.segments import SegmentInfo, inspect_segment
from billiards_shm.status import SourceState

if TYPE_CHECKING:
    from billiards_shm._core import FrameMetadata

__all__ = ["VideoConsumer"]

# OpenCV's numbers, restated: this module must work where OpenCV is not installed.
CAP_PROP_POS_MSEC: Final = 0
CAP_PROP_POS_FRAMES: Final = 1
CAP_PROP_FRAME_WIDTH: Final = 3
CAP_PROP_FRAME_HEIGHT: Final = 4
CAP_PROP_FPS: Final = 5
CAP_PROP_FOURCC: Final = 6
CAP_PROP_CONVERT_RGB: Final = 16
CAP_PROP_OPEN_TIMEOUT_MSEC: Final = 53
CAP_PROP_READ_TIMEOUT_MSEC: Final = 54

# Nothing wakes a reader when its writer closes, so a wait checks that now and then.
LONGEST_WAIT_SEC: Final = 0.1

_AS_PUBLISHED: Final = ("BGR24", "RAW")

_log = logging.getLogger(__name__)


class VideoConsumer:
    """Read shared frames as if they came from ``cv2.VideoCapture``.

    ``cv2.VideoCapture(0)`` becomes ``VideoConsumer("billiards_video")``; the rest of the program stays the same. Like
    OpenCV's class, it reports failure by return values, not exceptions. The reason goes to the logger
    ``billiards_shm.consumer``.

    Parameters
    ----------
    name : str, optional
        Name or path of the segment. Without it nothing is opened, as with ``cv2.VideoCapture()``.
    timeout : float or None
        Seconds to wait for the segment when opening, and for a frame in `read` and `grab`. None: no limit.
    copy : bool
        True: every frame is your own array, to draw into. False: frames are read-only views of shared memory, or,
        where they have to be converted, read-only arrays, one for each frame.

    Notes
    -----
    Two things differ from a camera. `read` returns the newest frame, so a slow loop skips frames instead of falling
    behind. And when the writer ends, `isOpened` stays True: `read` returns ``(False, None)`` after `timeout` seconds
    until the next writer starts; at the end of a recording it does so immediately, as it does for a file.

    Frames are BGR, like OpenCV's. Frames published in another format (``get(CAP_PROP_FOURCC)`` names it) are converted
    by OpenCV when they are retrieved. Only RAW frames, which say nothing about their pixels, stay as published.

    **Lifetime.** With ``copy=False`` a frame pins one slot of the segment until the last view of it is gone, and its
    pixels do not change before that. In either mode `grab` and `read` pin their frame until the next `grab`, `read` or
    `release`, so that `retrieve` can return it again.

    Examples
    --------
    >>> capture = VideoConsumer("billiards_video")  # doctest: +SKIP
    >>> while capture.isOpened():  # doctest: +SKIP
    ...     ok, frame = capture.read()
    ...     if not ok:
    ...         break
    """

    def __init__(self, name: str | None = None, timeout: float | None = 5.0, copy: bool = True) -> None:
        self._open_timeout = timeout
        self._read_timeout = timeout
        self._copy = copy
        self._name = ""
        self._reader: SharedMemoryFrameReader | None = None
        self._grabbed: npt.NDArray[Any] | None = None
        self._metadata: FrameMetadata | None = None
        self._converted: npt.NDArray[Any] | None = None
        self._last_failure = ""
        if name is not None:
            self.open(name)

    def open(self, name: str, apiPreference: int = 0, params: object = ()) -> bool:  # noqa: N803 - OpenCV's name
        """Release the segment that is open, if any; then open another, waiting for it up to the timeout.

        Parameters
        ----------
        name : str
            Name or path of the segment.
        apiPreference, params
            Ignored; ``cv2.VideoCapture.open`` takes them.

        Returns
        -------
        bool
            Whether the segment could be opened.
        """
        self.release()
        self._name = name
        try:
            reader = SharedMemoryFrameReader(name)
            reader.attach(timeout=self._open_timeout)
        except BilliardsShmError as error:
            self._report(error)
            return False
        self._reader = reader
        return True

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        """Whether a segment was opened and not released; stays True while its writer is away."""
        return self._reader is not None

    def grab(self) -> bool:
        """Wait for the next new frame and pin it, without copying.

        Returns
        -------
        bool
            False: no new frame within the timeout, or nothing is open. Also, immediately, after the last frame of a
            recording that has ended.
        """
        # The old pin is released before the wait: a consumer that waits holds no slot.
        self._grabbed = self._converted = None
        if self._reader is None:
            return False
        try:
            frame, metadata = self._wait_for_frame(self._reader)
        except BilliardsShmError as error:
            self._report(error)
            return False
        if frame is None:
            return False
        self._last_failure = ""
        self._grabbed, self._metadata = frame, metadata
        return True

    def _wait_for_frame(
        self, reader: SharedMemoryFrameReader
    ) -> "tuple[npt.NDArray[Any], FrameMetadata] | tuple[None, None]":
        found = reader.read_frame(copy=False)
        deadline = time.monotonic() + (math.inf if self._read_timeout is None else self._read_timeout)
        while found[0] is None and not (reader.source_state is SourceState.ENDED and reader._ended()):
            left = deadline - time.monotonic()
            if left <= 0:
                break
            found = reader.read_frame(timeout=min(left, LONGEST_WAIT_SEC), copy=False)
        return found

    def retrieve(self, image: npt.NDArray[Any] | None = None, flag: int = 0) -> tuple[bool, npt.NDArray[Any] | None]:
        """Return the frame that was grabbed last: the same one until the next `grab`.

        Parameters
        ----------
        image : numpy.ndarray, optional
            Where to put the frame. As in OpenCV, it is used if shape and dtype fit; otherwise you get a new array. Test
            ``result is image``.
        flag : int
            Ignored; ``cv2.VideoCapture.retrieve`` takes it.

        Returns
        -------
        tuple
            ``(True, frame)``, or ``(False, None)`` after a failed `grab`, or if the frame cannot be converted to BGR.

        Raises
        ------
        TypeError
            `image` is not an array.
        ValueError
            `image` is read-only.
        """
        _check_destination(image)
        frame = self._grabbed
        if frame is None or self._metadata is None:
            return False, None
        if self._metadata.pixel_format not in _AS_PUBLISHED:
            return self._retrieve_converted(frame, self._metadata.pixel_format, image)
        if image is not None and image.shape == frame.shape and image.dtype == frame.dtype:
            np.copyto(image, frame)
            return True, image
        return True, frame.copy() if self._copy else frame

    def _retrieve_converted(
        self, frame: npt.NDArray[Any], pixel_format: str, image: npt.NDArray[Any] | None
    ) -> tuple[bool, npt.NDArray[Any] | None]:
        if self._copy or image is not None:
            converted = self._convert(frame, pixel_format, image)
            return converted is not None, converted
        if self._converted is None:
            self._converted = self._convert(frame, pixel_format, None)
            if self._converted is None:
                return False, None
            self._converted.flags.writeable = False
        return True, self._converted

    def _convert(
        self, frame: npt.NDArray[Any], pixel_format: str, image: npt.NDArray[Any] | None
    ) -> npt.NDArray[Any] | None:
        try:
            from billiards_shm.images import convert

            return convert(frame, pixel_format, "BGR24", image)
        except ImportError as error:
            self._report(f"{pixel_format} frames need OpenCV ({error}): pip install 'billiards-shm[headless]'")
        except ValueError as error:
            self._report(error)
        return None

    def read(self, image: npt.NDArray[Any] | None = None) -> tuple[bool, npt.NDArray[Any] | None]:
        """Wait for the next new frame and return it: `grab`, then `retrieve`."""
        # Before the wait, so that a mistake costs no frame.
        _check_destination(image)
        self.grab()
        return self.retrieve(image)

    def get(self, propId: int) -> float:  # noqa: N803 - OpenCV's name
        """Return a property by OpenCV's number.

        Parameters
        ----------
        propId : int
            ``cv2.CAP_PROP_FRAME_WIDTH``, ``FRAME_HEIGHT``, ``FPS`` (as measured), ``FOURCC``, ``POS_MSEC``
            (of the last frame: in its source, or else when it was captured, monotonic), ``POS_FRAMES`` (its
            sequence number), ``CONVERT_RGB``, ``OPEN_TIMEOUT_MSEC`` or ``READ_TIMEOUT_MSEC``.

        Returns
        -------
        float
            The value; 0 if it is not known, such as ``FRAME_COUNT`` of a stream without an end.

        Notes
        -----
        The size and the format are those of a frame. If there is none yet, `get` waits for the first, as `read` does.
        """
        if self._reader is None:
            return 0.0
        getter = self._GETTERS.get(propId)
        return 0.0 if getter is None else float(getter(self))

    def set(self, propId: int, value: float) -> bool:  # noqa: N803 - OpenCV's name
        """Set a property by OpenCV's number. Only the two timeouts can be changed, in milliseconds.

        Returns
        -------
        bool
            False: the property belongs to the camera, and so to the capture process.
        """
        if self._reader is None:
            return False
        if value < 0:
            return False
        if propId == CAP_PROP_READ_TIMEOUT_MSEC:
            self._read_timeout = value / 1000
        elif propId == CAP_PROP_OPEN_TIMEOUT_MSEC:
            self._open_timeout = value / 1000
        else:
            return False
        return True

    def release(self) -> None:
        """Release the segment. Everything except `open` fails from now on. Frames you have stay valid."""
        self._grabbed = self._converted = None
        self._metadata = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def getBackendName(self) -> str:  # noqa: N802 - OpenCV's name
        """The name of the backend: ``SHARED_MEMORY``."""
        return "SHARED_MEMORY"

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """Frames, until `read` fails."""
        while True:
            ok, frame = self.read()
            if not ok or frame is None:
                return
            yield frame

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        state = "open" if self.isOpened() else "released"
        return f"VideoConsumer({self._name!r}, {state})"

    def _position_ms(self) -> float:
        last = self._metadata
        if last is None:
            return 0.0
        return last.position_ms if last.position_ms is not None else last.capture_time_ns / 1e6

    def _position_frames(self) -> float:
        return self._metadata.sequence if self._metadata is not None else 0.0

    def _fps(self) -> float:
        info = self._inspect()
        return info.fps if info is not None else 0.0

    def _width(self) -> float:
        return self._size()[0]

    def _height(self) -> float:
        return self._size()[1]

    def _size(self) -> tuple[float, float]:
        """Width and height of the picture, which may differ from the shape of its array."""
        shown = self._shown()
        if shown is None:
            return 0.0, 0.0
        row = PIXEL_FORMATS[shown.pixel_format]
        return row.picture_size(shown.height, shown.width) or self._size_in_jpeg()

    def _size_in_jpeg(self) -> tuple[float, float]:
        frame = self._grabbed
        try:
            if frame is None:
                # With another reader: otherwise the frame would count as seen.
                with SharedMemoryFrameReader(self._name) as reader:
                    frame = reader.latest_frame()[0]
            header = read_header(frame.tobytes()) if frame is not None else None
        except (BilliardsShmError, ValueError):
            header = None
        return (header.width, header.height) if header is not None else (0.0, 0.0)

    def _fourcc(self) -> float:
        # The codes are V4L2's, which OpenCV reports for a camera. RAW is not one of them: 0.
        name = self._pixel_format()
        return PIXEL_FORMATS[name].code if name in PIXEL_FORMATS and name != "RAW" else 0

    def _converts_to_bgr(self) -> float:
        return self._pixel_format() not in ("", "RAW")

    def _open_timeout_ms(self) -> float:
        return (self._open_timeout or 0.0) * 1000

    def _read_timeout_ms(self) -> float:
        return (self._read_timeout or 0.0) * 1000

    _GETTERS: ClassVar[Mapping[int, Callable[["VideoConsumer"], float]]] = {
        CAP_PROP_POS_MSEC: _position_ms,
        CAP_PROP_POS_FRAMES: _position_frames,
        CAP_PROP_FRAME_WIDTH: _width,
        CAP_PROP_FRAME_HEIGHT: _height,
        CAP_PROP_FPS: _fps,
        CAP_PROP_FOURCC: _fourcc,
        CAP_PROP_CONVERT_RGB: _converts_to_bgr,
        CAP_PROP_OPEN_TIMEOUT_MSEC: _open_timeout_ms,
        CAP_PROP_READ_TIMEOUT_MSEC: _read_timeout_ms,
    }

    def _shown(self) -> "FrameMetadata | None":
        """The metadata of the newest frame.

        Programs may ask before they read the first frame, to size their windows. Then another reader waits for a frame
        and looks at it: otherwise it would no longer be new to this one.
        """
        if self._metadata is not None:
            return self._metadata
        try:
            with SharedMemoryFrameReader(self._name) as reader:
                return reader.read_frame(timeout=self._read_timeout)[1]
        except BilliardsShmError:
            return None

    def _pixel_format(self) -> str:
        shown = self._shown()
        return shown.pixel_format if shown is not None else ""

    def _inspect(self) -> SegmentInfo | None:
        try:
            return inspect_segment(self._name)
        except BilliardsShmError:
            return None

    def _report(self, error: Exception | str) -> None:
        """Log why something failed, and again only when the reason changes."""
        if str(error) != self._last_failure:
            self._last_failure = str(error)
            _log.warning("%s", error)


def _check_destination(image: object) -> None:
    if image is None:
        return
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image must be a numpy array, not {type(image).__name__}")
    if not image.flags.writeable:
        raise ValueError("image is read-only: pass a writable array, or none")
