"""The name by which FFmpeg opens a source, and the file next to a recording."""

from pathlib import Path

from billiards_shm.config.address import SourceAddress, SourceKind

__all__ = ["ffmpeg_name", "frames_file"]


def ffmpeg_name(address: SourceAddress) -> str:
    """Name a file so that FFmpeg does not take it for something else. Other names stay unchanged.

    A path that begins with a dot and a slash is never a protocol, as ``a:b.mp4`` would be. Redirected input may be a
    socket, which cannot be opened by its name: FFmpeg reads the descriptor itself.
    """
    place = str(address.place)
    if address.kind is SourceKind.PIPE and address.descriptor is not None:
        return f"pipe:{address.descriptor}"
    if address.kind in (SourceKind.FILE, SourceKind.PIPE, SourceKind.IMAGES) and not Path(place).is_absolute():
        return f"./{place}"
    return place


def frames_file(recording: Path) -> Path:
    """The file next to a recording that has a line for each of its frames."""
    return recording.with_name(f"{recording.name}.frames.jsonl")
