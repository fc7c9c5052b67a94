"""``billiards-shm replay``: the last seconds of a segment as a file."""

from pathlib import Path

import click

from billiards_shm.cli.options import Seconds, common_options, complete_names

__all__ = ["replay_command"]


@click.command(
    "replay",
    short_help="Write the last seconds to a file.",
    epilog="""\b
Examples:
  billiards-shm record table_1 --ring 30s &
  billiards-shm replay table_1 goal.mp4
  billiards-shm replay table_1 --last 20 foul.mkv

\b
The clip begins up to half a second earlier than asked. MJPG frames are written
to an .mkv file unchanged; for an .mp4 file they are encoded.
""",
)
@click.argument("name", shell_complete=complete_names)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--last", type=Seconds(min=0), default=10.0, show_default=True, help="Seconds up to the newest frame.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@common_options
def replay_command(name: str, file: Path, last: float, overwrite: bool) -> None:
    """Write the last seconds of NAME to FILE, an .mkv or .mp4, from the ring that `record NAME --ring` keeps.

    The numbers and times of the frames are in FILE.frames.jsonl, as for a recording.
    """
    from billiards_shm.record.clip import needs_encoding, write_clip
    from billiards_shm.record.control import fetched_clip
    from billiards_shm.record.files import check_file

    check_file(file, overwrite=overwrite)
    with fetched_clip(name, last) as clip:
        if needs_encoding(clip.stream, file):
            click.echo(f"{file}: encoding {clip.length} frames; .mkv takes them unchanged", err=True)
        output = write_clip(clip.stream, clip.frames, file, overwrite=overwrite, title=name)
    click.echo(f"{file}: {output.duration_s:.1f} s, {output.frames} frames, {output.bytes / 1e6:.1f} MB")
