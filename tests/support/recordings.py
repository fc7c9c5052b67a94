"""Recordings, read back."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np

from billiards_shm.encoder import EncodedFrame, Encoder, EncoderOptions, open_encoder
from billiards_shm.images import encode_image
from billiards_shm.record.ring import KEY_INTERVAL_S, Clip
from billiards_shm.sources.demo.table import DemoTable


def packets(path: Path) -> list[Any]:
    """The packets of a recording, in order."""
    with av.open(str(path)) as container:
        return [packet for packet in container.demux(container.streams.video[0]) if packet.size]


def seconds(path: Path) -> list[float]:
    """When each frame of a recording is shown."""
    return [float(packet.pts * packet.time_base) for packet in packets(path)]


def pictures(path: Path) -> list[Any]:
    """The pictures of a recording, as BGR arrays."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def lines(path: Path) -> list[dict[str, Any]]:
    """The lines about frames that are stored next to a recording."""
    return [json.loads(line) for line in path.with_name(f"{path.name}.frames.jsonl").read_text().splitlines()]


_COUNT = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"]


def frames_by_ffprobe(path: Path) -> int:
    """How many frames ffprobe decodes; it must find no error."""
    done = subprocess.run([*_COUNT, path], capture_output=True, text=True, check=True)
    assert not done.stderr, done.stderr
    return int(done.stdout.strip().strip(","))


def frames_by_ffprobe_if_any(path: Path) -> int:
    """The same for a file that was cut off, maybe before its first fragment was written."""
    done = subprocess.run([*_COUNT, path], capture_output=True, text=True, check=False)
    counted = done.stdout.strip().strip(",")
    return int(counted) if counted.isdecimal() else 0


def metadata(path: Path) -> dict[str, str]:
    """A recording's metadata."""
    with av.open(str(path)) as container:
        return dict(container.metadata)


def clip(frames: int = 60, fps: float = 30.0, size: tuple[int, int] = (320, 240), codec: str = "h264") -> Clip:
    """A clip of the demo, as a ring would hold it: H.264 with a key frame every half second, or MJPG."""
    table = DemoTable(*size, fps)
    encoder: Encoder | None = None
    found: list[EncodedFrame] = []
    for number in range(1, frames + 1):
        table.grab()
        picture = table.retrieve(None)
        time_ns = 5_000_000_000_000 + round(number * 1e9 / fps) + number % 3 * 700_000
        metadata: Any = SimpleNamespace(
            pixel_format="MJPG" if codec == "copy" else "BGR24",
            sequence=number,
            capture_time_ns=time_ns,
            publish_time_ns=time_ns,
            wall_time_ns=1_700_000_000_000_000_000 + time_ns,
            position_ms=None,
        )
        if codec == "copy":
            picture = np.frombuffer(encode_image(picture, "BGR24", ".jpg"), np.uint8).reshape(1, -1)
        if encoder is None:
            encoder = open_encoder(EncoderOptions(codec, key_interval_s=KEY_INTERVAL_S, fps=fps), picture, metadata)
        found += encoder.encode(picture, metadata)
    assert encoder is not None
    return Clip(encoder.format, found)
