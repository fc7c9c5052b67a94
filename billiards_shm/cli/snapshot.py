"""``billiards-shm snapshot``: the newest frame as an image, once or as a time-lapse."""

import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from billiards_shm import SharedMemoryFrameReader
from billiards_shm.cli.errors import PROGRAM
from billiards_shm.cli.options import Seconds, common_options, complete_names, load_configuration
from billiards_shm.config.address import IMAGE_NUMBER, image_names
from billiards_shm.pixel_formats import size_text
from billiards_shm.service.signals import StopRequest

__all__ = ["snapshot_command"]

STANDARD_OUTPUT: Final = Path("-")


@click.command(
    "snapshot",
    short_help="Write the newest frame as PNG or JPEG.",
    epilog="""\b
Examples:
  billiards-shm snapshot billiards_video table.png
  billiards-shm snapshot billiards_video table.jpg --quality 80
  billiards-shm snapshot billiards_video - --format jpg | display -
  billiards-shm snapshot billiards_video night-%05d.jpg --every 10

\b
The segment of a dead writer still has its last frame. PNG keeps every bit.
""",
)
@click.argument("name", shell_complete=complete_names)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="Quality of a JPEG.")
@click.option("--format", "image_format", type=click.Choice(["png", "jpg"]), help="Format, if FILE is -. [png]")
@click.option("--every", type=Seconds(min=0.02), help="Write a snapshot every so many seconds, until Ctrl+C.")
@click.option("--count", type=click.IntRange(min=1), help="With --every: stop after this many snapshots.")
@click.option(
    "--timeout",
    type=Seconds(min=0),
    help="Seconds to wait for the segment and its first frame. [video.shared_memory_attach_timeout_sec: 5.0]",
)
@common_options
@click.pass_context
def snapshot_command(
    ctx: click.Context,
    /,
    name: str,
    file: Path,
    quality: int,
    image_format: str | None,
    every: float | None,
    count: int | None,
    timeout: float | None,
) -> None:
    """Write the newest frame of NAME to FILE, a .png, .jpg or .jpeg, or - for standard output.

    With --every, FILE may have a number, such as %05d. The numbers start after the highest of existing files. Without
    a number, each snapshot replaces the one before. If there is no new frame since the last one, none is written.
    """
    extension = _checked_extension(file, image_format)
    if count is not None and every is None:
        raise click.UsageError("--count needs --every")
    images = _Images(itertools.repeat(file) if every is None else _numbered(file), extension, quality)
    if timeout is None:
        timeout = load_configuration(ctx, {})[0].video.shared_memory_attach_timeout_sec
    with SharedMemoryFrameReader(name) as reader:
        reader.attach(timeout=timeout)
        if not images.write_newest(reader, timeout):
            raise TimeoutError(f"no frame in {name} within {timeout:g} s: '{PROGRAM} inspect {name}' shows its source")
        if every is not None:
            _write_more(images, reader, every, count)


class _Images:
    """Writes frames to files, or to standard output.

    Parameters
    ----------
    files : iterator of pathlib.Path
    extension : str
        Determines the format.
    quality : int
        Of a JPEG.
    """

    def __init__(self, files: Iterator[Path], extension: str, quality: int) -> None:
        self.written = 0
        self._files = files
        self._extension = extension
        self._quality = quality

    def write_newest(self, reader: SharedMemoryFrameReader, timeout: float = 0.0) -> bool:
        """Write the newest frame; False if there is no new one."""
        from billiards_shm.images import encode_image

        frame, metadata = reader.read_frame(timeout=timeout)
        if frame is None or metadata is None:
            return False
        try:
            image = encode_image(frame, metadata.pixel_format, self._extension, self._quality)
        except ValueError as error:
            raise click.ClickException(f"{reader.name}: {error}") from error
        file = next(self._files)
        if file == STANDARD_OUTPUT:
            sys.stdout.buffer.write(image)
            sys.stdout.buffer.flush()
        else:
            _write_atomically(file, image)
        size = size_text(metadata.pixel_format, metadata.height, metadata.width)
        click.echo(f"{file}: frame {metadata.sequence}, {size}", err=file == STANDARD_OUTPUT)
        self.written += 1
        return True


def _write_more(images: _Images, reader: SharedMemoryFrameReader, every: float, count: int | None) -> None:
    due = time.monotonic()
    with StopRequest() as stop:
        while images.written != count:
            # A snapshot that is overdue is skipped.
            due = max(due + every, time.monotonic())
            if stop.wait(due - time.monotonic()):
                return
            images.write_newest(reader)


def _checked_extension(file: Path, image_format: str | None) -> str:
    from billiards_shm.images import EXTENSIONS

    if file == STANDARD_OUTPUT:
        if os.isatty(1):
            raise click.UsageError("standard output is a terminal and cannot show images: redirect it, or name a FILE")
        return f".{image_format or 'png'}"
    if image_format is not None:
        raise click.UsageError("--format is only for FILE -; the ending of other files decides their format")
    if file.suffix.lower() not in EXTENSIONS:
        raise click.BadParameter(f"{str(file)!r} must end in {', '.join(EXTENSIONS)}", param_hint="FILE")
    if not file.parent.is_dir():
        raise click.BadParameter(f"there is no directory {str(file.parent)!r}", param_hint="FILE")
    return file.suffix


def _numbered(pattern: Path) -> Iterator[Path]:
    """The files of a time-lapse, as ``capture`` reads them; the same file again and again if there is no number."""

    def file_of(number: int) -> Path:
        return pattern.with_name(
            IMAGE_NUMBER.sub(lambda found: "%" if found[0] == "%%" else f"{number:0{found[1] or 0}d}", pattern.name)
        )

    if file_of(1) == file_of(2):
        return itertools.repeat(file_of(1))
    names = image_names(pattern.name)
    found = (names.fullmatch(entry.name) for entry in pattern.parent.iterdir())
    highest = max((int(number) for name in found if name for number in name.groups()), default=0)
    return map(file_of, itertools.count(highest + 1))


def _write_atomically(file: Path, data: bytes) -> None:
    """Replace `file` in one step, so its readers get either the old or the new content."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(file)
    except OSError as error:
        # The user does not know the temporary file.
        error.filename, error.filename2 = str(file), None
        raise
    finally:
        temporary.unlink(missing_ok=True)
