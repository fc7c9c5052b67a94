"""Encodes a source as H.264 with ffmpeg: as HLS into a folder, or to an RTSP server such as MediaMTX.

    python examples/restream.py NAME table/live.m3u8
    python examples/restream.py NAME rtsp://127.0.0.1:8554/table

Frames that arrive while ffmpeg is busy are missed, so the stream does not fall behind. It ends when the source does,
and when the size or the format of its frames changes.
"""

import argparse
import contextlib
import subprocess
import sys

import numpy as np

from billiards_shm import SharedMemoryFrameReader
from billiards_shm.pixel_formats import PIXEL_FORMATS

# Each frame is sent when it is encoded, and one per second can be decoded on its own. H.264 needs even sizes.
ENCODE = (
    "-fps_mode vfr -vf pad=ceil(iw/2)*2:ceil(ih/2)*2 -pix_fmt yuv420p "
    "-c:v libx264 -preset veryfast -tune zerolatency -force_key_frames expr:gte(t,n_forced)"
)
HLS = "-f hls -hls_time 1 -hls_list_size 6 -hls_flags delete_segments+independent_segments"
RTSP = "-f rtsp -rtsp_transport tcp"


def command(pixel_format: str, shape: tuple[int, ...], target: str) -> list[str]:
    """Return the ffmpeg command for frames of this format and shape."""
    row = PIXEL_FORMATS[pixel_format]
    if not row.ffmpeg:
        raise SystemExit(f"ffmpeg has no name for {pixel_format}")
    kind = ["-f", "mjpeg"]
    if size := row.picture_size(*shape[:2]):
        kind = ["-f", "rawvideo", "-pixel_format", row.ffmpeg, "-video_size", f"{size[0]}x{size[1]}"]
    output = RTSP if target.startswith("rtsp://") else HLS
    arrival = ["-use_wallclock_as_timestamps", "1"]
    return ["ffmpeg", "-v", "error", "-nostdin", *arrival, *kind, "-i", "-", *ENCODE.split(), *output.split(), target]


def restream(name: str, target: str) -> int:
    """Send ffmpeg every frame that it has time for; return its exit code."""
    with SharedMemoryFrameReader(name) as reader:
        reader.attach(timeout=None)
        started: list[str] = []
        ffmpeg: subprocess.Popen[bytes] | None = None
        for frame, metadata in reader:
            wanted = command(metadata.pixel_format, frame.shape, target)
            if ffmpeg is None:
                started = wanted
                ffmpeg = subprocess.Popen(wanted, stdin=subprocess.PIPE)
            if wanted != started:
                break
            assert ffmpeg.stdin is not None
            try:
                ffmpeg.stdin.write(np.ascontiguousarray(frame).data)
                ffmpeg.stdin.flush()
            except BrokenPipeError:
                break
        if ffmpeg is None:
            return 0
        with contextlib.suppress(BrokenPipeError):
            ffmpeg.communicate()
        return ffmpeg.wait()


def main() -> None:
    """Restream until the source ends."""
    parser = argparse.ArgumentParser(description="Encode a source as H.264")
    parser.add_argument("name")
    parser.add_argument("target", help="an .m3u8 file, or an rtsp:// address")
    arguments = parser.parse_args()
    sys.exit(restream(arguments.name, arguments.target))


if __name__ == "__main__":
    main()
