"""JPEGs as cameras send them."""

import cv2
import numpy as np
import numpy.typing as npt


def jpeg(image: npt.NDArray[np.uint8], quality: int = 90) -> bytes:
    """Encode a picture; the Huffman tables are the standard's."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def without_tables(data: bytes) -> bytes:
    """The same JPEG as many cameras send it: the reader has to know the Huffman tables."""
    kept, place = data[:2], 2
    while data[place + 1] != 0xDA:
        length = 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place + 1] != 0xC4:
            kept += data[place : place + length]
        place += length
    return kept + data[place:]


def as_frame(data: bytes) -> npt.NDArray[np.uint8]:
    """The array of an MJPG frame."""
    return np.frombuffer(data, np.uint8).reshape(1, -1)
