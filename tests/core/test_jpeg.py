"""JPEGs are checked and completed without decoding them."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
from jpegs import jpeg, without_tables

from billiards_shm.jpeg import STANDARD_TABLES, complete, read_header

PICTURE = cv2.resize(np.random.default_rng(5).integers(0, 256, (6, 9, 3), np.uint8), (71, 53))
WHOLE = jpeg(PICTURE)
BARE = without_tables(WHOLE)
HEADER_BYTES = WHOLE.index(b"\xff\xda")
FRAME = WHOLE[: WHOLE.index(b"\xff\xc0") + 2]


def decoded(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_a_jpeg_with_its_tables_is_unchanged() -> None:
    assert complete(WHOLE) is WHOLE
    assert read_header(WHOLE)[:2] == (71, 53)
    assert not read_header(WHOLE).lacks_tables


def test_a_jpeg_without_tables_gets_the_standards() -> None:
    assert len(WHOLE) - len(BARE) == len(STANDARD_TABLES) == 432
    assert read_header(BARE).lacks_tables
    found = complete(BARE)
    place = found.index(STANDARD_TABLES)
    assert found[:place] + found[place + 432 :] == BARE, "nothing else changed"
    np.testing.assert_array_equal(decoded(found), decoded(WHOLE))


def test_the_tables_are_the_ones_that_encoders_write() -> None:
    """OpenCV's libjpeg writes the tables of the standard's annex K, unless it is told to optimize them."""
    for begin, end in ((0, 33), (33, 216), (216, 249), (249, 432)):
        assert STANDARD_TABLES[begin:end] in WHOLE


@pytest.mark.parametrize("kind", ["optimized", "progressive", "gray", "restart markers"])
def test_custom_tables_are_kept(kind: str) -> None:
    parameters = {
        "optimized": [cv2.IMWRITE_JPEG_OPTIMIZE, 1],
        "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        "gray": [],
        "restart markers": [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
    }[kind]
    image = PICTURE[..., 0] if kind == "gray" else PICTURE
    data = cv2.imencode(".jpg", image, parameters)[1].tobytes()
    assert complete(data) is data
    assert read_header(data)[:2] == (71, 53)


@pytest.mark.parametrize(("marker", "bits"), [(0xC3, 8), (0xC5, 8), (0xCB, 8), (0xC1, 12), (0xC0, 16)])
def test_a_jpeg_of_a_kind_that_few_can_read_is_refused(marker: int, bits: int) -> None:
    frame = WHOLE.index(b"\xff\xc0")
    other = WHOLE[:frame] + bytes((0xFF, marker)) + WHOLE[frame + 2 : frame + 4] + bytes([bits]) + WHOLE[frame + 5 :]
    assert not read_header(other).common
    with pytest.raises(ValueError, match="lossless, hierarchical, or of more than 8 bits"):
        complete(other)


def of_size(width: int, height: int, data: bytes = WHOLE) -> bytes:
    """The same JPEG with a header that names another size."""
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[place + 4 :]


def test_a_size_with_too_few_bytes_for_it_counts_as_damage() -> None:
    with pytest.raises(ValueError, match=rf"its size is 65535x65535, for which {len(WHOLE)} bytes are too few$"):
        complete(of_size(65535, 65535))


@pytest.mark.parametrize("parameters", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_OPTIMIZE, 1]])
@pytest.mark.parametrize("shape", [(4000, 4000), (4000, 4000, 3)])
def test_no_real_picture_has_too_few_bytes(parameters: list[int], shape: tuple[int, ...]) -> None:
    data = cv2.imencode(".jpg", np.zeros(shape, np.uint8), [*parameters, cv2.IMWRITE_JPEG_QUALITY, 1])[1].tobytes()
    print(f"{4000 * 4000 / len(data):.0f} pixels a byte")
    assert complete(data) is data


@pytest.mark.parametrize("padding", [b"\0" * 500, b"\r\n", b"\xff\xff"])
def test_bytes_that_a_camera_adds_after_the_end_are_kept(padding: bytes) -> None:
    assert complete(WHOLE + padding) == WHOLE + padding


def test_fill_bytes_and_a_thumbnail_are_skipped() -> None:
    thumbnail = b"\xff\xe1" + (2 + len(WHOLE)).to_bytes(2, "big") + WHOLE
    data = WHOLE[:2] + thumbnail + b"\xff\xff" + BARE[2:]
    header = read_header(data)
    assert header[:2] == (71, 53)
    assert header.lacks_tables
    assert len(complete(data)) == len(data) + 432
    np.testing.assert_array_equal(decoded(complete(data)), decoded(WHOLE))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "nothing"),
        (b"\x89PNG\r\n\x1a\n", "8950"),
        (WHOLE[:2], "no picture"),
        (WHOLE[:30], "cut off in its header|no picture"),
        (WHOLE[:HEADER_BYTES], "no picture"),
        (WHOLE[: HEADER_BYTES + 6], "cut off in its header"),
        (WHOLE[: len(WHOLE) // 2], "without an end marker"),
        (WHOLE[:-2], "without an end marker"),
        (WHOLE[:-1], "without an end marker"),
        (WHOLE[:4] + b"\xff" * 2 + WHOLE[6:], "cut off in its header"),
        (WHOLE[:4] + b"\0\1" + WHOLE[6:], "its segment e0 has a length of 1: expected at least 2$"),
        (FRAME + b"\0\7" + WHOLE[len(FRAME) + 2 :], "its segment c0 has a length of 7: expected at least 8$"),
        (WHOLE[:20] + b"zz" + WHOLE[22:], "expected a marker, ff"),
        (b"\xff\xd8\xff\xd9", "no picture"),
        (WHOLE.replace(b"\x00\x35\x00\x47", b"\x00\x00\x00\x47", 1), "size is 71x0"),
    ],
)
def test_a_damaged_jpeg_says_what_is_wrong(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        complete(data)


def test_no_truncated_jpeg_or_noisy_header_is_taken_for_complete_or_crashes() -> None:
    for length in range(len(WHOLE)):
        with pytest.raises(ValueError, match="it "):
            complete(WHOLE[:length])
    rng = np.random.default_rng(6)
    refused = 0
    for _ in range(2000):
        data = bytearray(WHOLE)
        for place in rng.integers(2, HEADER_BYTES, 3):
            data[place] = rng.integers(0, 256)
        try:
            complete(bytes(data))
        except ValueError:
            refused += 1
    print(f"{refused} of 2000 with noise in the header are refused")
    assert refused


def test_a_header_like_the_last_one_is_told_from_others() -> None:
    """What was read last is remembered."""
    other = of_size(99, 44)
    for _ in range(3):
        assert read_header(WHOLE)[:2] == (71, 53)
        assert read_header(memoryview(other))[:2] == (99, 44)
        assert read_header(BARE).lacks_tables
        assert not read_header(memoryview(WHOLE)).lacks_tables
    for length in range(HEADER_BYTES + 10):
        assert read_header(WHOLE)[:2] == (71, 53)
        with pytest.raises(ValueError, match=r"ends before that|cut off|nothing|start like"):
            read_header(WHOLE[:length])


def test_zeros_are_not_taken_for_a_jpeg_before_the_first_one() -> None:
    program = "from billiards_shm.jpeg import read_header; read_header(bytes(9))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ValueError: it does not start like a JPEG" in ended.stderr
