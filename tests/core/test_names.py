"""Names, and what they may refer to: anything foreign raises a named error and stays untouched."""

import contextlib
import gzip
import os
import socket
import string
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import segment_layout as layout
from child_processes import Child
from hypothesis import example, given, settings
from hypothesis import strategies as st
from segment_layout import opened
from segments_under_test import SHAPE, descriptors, mappings, new_frame, path_of, picture, sees, wait_until

from billiards_shm import (
    BilliardsShmError,
    SegmentFormatError,
    SegmentNameError,
    SegmentNotFoundError,
    SegmentPermissionError,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    WriterExistsError,
    inspect_segment,
    list_segments,
    remove_stale_segments,
)

ALLOWED = string.ascii_letters + string.digits + "._-"

USES: dict[str, Callable[[str], Any]] = {
    "writer": lambda name: SharedMemoryFrameWriter(name, SHAPE),
    "reader": SharedMemoryFrameReader,
    "inspect": inspect_segment,
    "remove": lambda name: remove_stale_segments([name]),
}
LOOKS: dict[str, Callable[[str], Any]] = USES | {
    "reader": lambda name: SharedMemoryFrameReader(name).attach(timeout=0),
    "read": lambda name: SharedMemoryFrameReader(name).read_frame(),
    "latest": lambda name: SharedMemoryFrameReader(name).latest_frame(),
}
every_use = pytest.mark.parametrize("use", USES.values(), ids=USES)
every_look = pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("rest", ["a", "A", "0", ".", "-", "_", "a.b-c_D", ".hidden", "x" * 40, "...", "~"[:0] + "-"])
def test_letters_digits_dot_underscore_and_minus_make_a_name(segment_name: str, rest: str) -> None:
    name = segment_name + rest
    with SharedMemoryFrameWriter(name, SHAPE) as writer, SharedMemoryFrameReader(name) as reader:
        assert path_of(name).is_file()
        assert writer.name == reader.name == name
        writer.write_frame(picture(1))
        assert sees(new_frame(reader)[0], 1)
        assert inspect_segment(name).path == f"/dev/shm/{name}"


def test_a_name_may_have_64_characters_and_not_65(segment_name: str) -> None:
    longest = segment_name.ljust(64, "x")
    with SharedMemoryFrameWriter(longest, SHAPE):
        assert path_of(longest).exists()
    for use in USES.values():
        with pytest.raises(SegmentNameError, match=r"65 characters.*64"):
            use(longest + "x")


@every_use
@pytest.mark.parametrize(
    "name", ["", "a b", "a\tb", "a\n", "ä", "a:b", "a~", "a*", "a\\b", "a\0b", "a$", "日本", "a;b", "😀", "x" * 1000]
)
def test_other_characters_are_refused_and_the_allowed_are_named(use: Callable[[str], Any], name: str) -> None:
    with pytest.raises(SegmentNameError) as caught:
        use(name)
    assert isinstance(caught.value, ValueError)
    if name and "\0" not in name and len(name) < 64:
        assert "letters, digits" in str(caught.value)


@every_use
@pytest.mark.parametrize("name", [".", "..", "dir/.", "dir/..", "dir/", "/tmp/", "./", "../", "//"])
def test_a_name_that_can_only_be_a_directory_is_refused(use: Callable[[str], Any], name: str) -> None:
    with pytest.raises(SegmentNameError, match=r"directory|slash"):
        use(name)


@every_use
def test_a_single_leading_slash_is_refused_with_a_hint(use: Callable[[str], Any]) -> None:
    with pytest.raises(SegmentNameError, match=r"/billiards_video.*leave the slash out.*'billiards_video'"):
        use("/billiards_video")


@every_use
def test_a_path_that_is_too_long_is_refused(use: Callable[[str], Any], tmp_path: Path) -> None:
    with pytest.raises(SegmentNameError, match="too long"):
        use(f"{tmp_path}/{'x' * 5000}")


@every_use
@pytest.mark.parametrize("name", [None, 5, 1.5, [], object()])
def test_a_name_that_is_not_text_is_a_type_error(use: Callable[[Any], Any], name: Any) -> None:
    with pytest.raises(TypeError, match="expected the name of a segment, or the path of its file"):
        use(name)


@given(st.text(max_size=80))
@example("\ud800")
@example("a\ud800b/c")
@example("\udcff")
@example("a" * 64)
@example("%s%n%d")
@settings(max_examples=300)
def test_any_text_is_a_name_or_a_segment_name_error(name: str) -> None:
    fits = 1 <= len(name) <= 64 and set(name) <= set(ALLOWED) and name not in (".", "..")
    if "/" in name:
        with contextlib.suppress(SegmentNameError):
            SharedMemoryFrameReader(name)
    elif fits:
        assert SharedMemoryFrameReader(name).name == name
    else:
        with pytest.raises(SegmentNameError):
            SharedMemoryFrameReader(name)


# ---------------------------------------------------------------- paths


@pytest.fixture(params=["shared memory", "ordinary directory"])
def directory(request: pytest.FixtureRequest, tmp_path: Path, segment_name: str) -> Iterator[Path]:
    """A directory for files: on a tmpfs, and wherever pytest puts its own."""
    if request.param == "ordinary directory":
        yield tmp_path
        return
    made = path_of(segment_name)
    made.mkdir()
    yield made
    assert list(made.iterdir()) == []
    made.rmdir()


def test_a_path_is_a_file_that_works_like_shared_memory(directory: Path) -> None:
    path = directory / "video with a space é"
    with SharedMemoryFrameWriter(str(path), SHAPE) as writer, SharedMemoryFrameReader(str(path)) as reader:
        assert path.is_file()
        assert [entry.name for entry in directory.iterdir()] == [path.name]
        for number in range(1, 20):
            writer.write_frame(picture(number))
            frame, metadata = new_frame(reader)
            assert sees(frame, number)
            assert metadata.zero_copy
        assert inspect_segment(str(path)).path == str(path)
        with pytest.raises(WriterExistsError):
            SharedMemoryFrameWriter(str(path), SHAPE)
    assert list(directory.iterdir()) == []
    assert sees(frame, 19)


def test_a_path_may_be_a_path_object_and_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    with SharedMemoryFrameWriter(Path("sub/video"), SHAPE) as writer:  # type: ignore[arg-type]
        writer.write_frame(picture(1))
        for name in ("sub/video", "./sub/video", str(tmp_path / "sub" / "video"), tmp_path / "sub" / "video"):
            assert sees(new_frame(SharedMemoryFrameReader(name))[0], 1)  # type: ignore[arg-type]


def test_a_file_is_taken_over_like_shared_memory(directory: Path) -> None:
    path = directory / "video"
    with Child("write_and_wait(sys.argv[1])", path) as child, SharedMemoryFrameReader(str(path)) as reader:
        child.says()
        view = new_frame(reader)[0]
        child.kill()
        with SharedMemoryFrameWriter(str(path), SHAPE) as writer:
            assert writer.write_frame(picture(2)) == 2
            assert new_frame(reader)[1].sequence == 2
        assert sees(view, 1)
    assert list(directory.iterdir()) == []


def test_a_directory_that_is_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with SharedMemoryFrameWriter(f"{tmp_path}/link/video", SHAPE):
        assert (tmp_path / "real" / "video").is_file()


@every_look
def test_in_a_directory_that_does_not_exist_there_is_no_segment(
    look: Callable[[str], Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = f"{tmp_path}/nowhere/video"
    if request.node.callspec.id in ("read", "latest"):
        assert look(name) == (None, None)
    elif request.node.callspec.id == "remove":
        assert look(name) == []
    else:
        with pytest.raises(SegmentNotFoundError, match=name):
            look(name)


@pytest.mark.parametrize("use", ["SharedMemoryFrameWriter(sys.argv[1], SHAPE)", "remove_stale_segments([sys.argv[1]])"])
def test_a_path_through_a_file_ends_in_an_error_and_not_in_a_loop(tmp_path: Path, use: str) -> None:
    (tmp_path / "file").write_text("")
    code = f"""
    try:
        {use}
    except BilliardsShmError as error:
        say(type(error).__name__)
    else:
        say("nothing")
    """
    with Child(code, tmp_path / "file" / "video") as child:
        assert child.says(5) in ("SegmentNotFoundError", "SegmentNameError", "SegmentSystemError", "nothing")


# ---------------------------------------------------------------- what is not ours


def state_of(path: Path) -> tuple[Any, ...]:
    status = path.lstat()
    content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
    target = str(path.readlink()) if path.is_symlink() else None
    return status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, content, target


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # the address has room for 107 bytes
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


FOREIGN: dict[str, Callable[[Path], object]] = {
    "an empty file": lambda path: path.write_bytes(b""),
    "one byte": lambda path: path.write_bytes(b"B"),
    "a text": lambda path: path.write_text("hello\n"),
    "seven bytes of the magic": lambda path: path.write_bytes(b"BILLISH"),
    "the magic alone": lambda path: path.write_bytes(b"BILLISHM"),
    "zeros": lambda path: path.write_bytes(bytes(300_000)),
    "random bytes": lambda path: path.write_bytes(os.urandom(300_000)),
    "the magic in the wrong place": lambda path: path.write_bytes(b"\0BILLISHM" + bytes(300_000)),
    "a directory": Path.mkdir,
    "a FIFO": make_fifo,
    "a socket": make_socket,
    "a symbolic link to nowhere": lambda path: path.symlink_to("/nonexistent"),
    "a symbolic link to a file": lambda path: path.symlink_to("/etc/hostname"),
    "a symbolic link to itself": lambda path: path.symlink_to(path),
    "a symbolic link to a device": lambda path: path.symlink_to("/dev/zero"),
}


def remove(path: Path) -> None:
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_object_is_a_named_error_and_stays_untouched(
    segment_name: str, tmp_path: Path, make: Callable[[Path], object]
) -> None:
    for name, path in ((segment_name, path_of(segment_name)), (str(tmp_path / "video"), tmp_path / "video")):
        make(path)
        before, files = state_of(path), descriptors()
        for look in LOOKS.values():
            with pytest.raises(SegmentFormatError, match=path.name):
                look(name)
        assert state_of(path) == before
        assert descriptors() == files
        assert mappings(str(path)) == 0
        assert segment_name not in {found.name for found in list_segments()}
        assert state_of(path) == before
        remove(path)
    assert list(tmp_path.iterdir()) == [], "nothing is left next to it"


def test_a_symbolic_link_to_a_living_segment_is_not_followed(segment_name: str, tmp_path: Path) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        link = tmp_path / "link"
        link.symlink_to(path_of(segment_name))
        for look in LOOKS.values():
            with pytest.raises(SegmentFormatError, match="symbolic link"):
                look(str(link))
        assert writer.write_frame(picture(2)) == 2
        assert inspect_segment(segment_name).generation == writer.generation


def test_a_foreign_object_is_found_before_any_memory_is_taken(segment_name: str) -> None:
    path_of(segment_name).write_bytes(b"hello")
    free = os.statvfs("/dev/shm").f_bavail
    with pytest.raises(SegmentFormatError):
        SharedMemoryFrameWriter(segment_name, (2**15, 2**15, 3), slots=62)  # 3 GB each
    assert os.statvfs("/dev/shm").f_bavail >= free - 1000
    path_of(segment_name).unlink()


@pytest.mark.slow  # only root can give a file to another user
def test_a_segment_of_a_user_who_is_not_trusted_is_refused_and_both_users_are_named(
    segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        os.chown(path_of(segment_name), 65534, 65534)
        for name in ("reader", "read", "latest", "inspect"):
            with pytest.raises(SegmentPermissionError, match=f"{segment_name}.*65534.*0.*trusted_owners"):
                LOOKS[name](segment_name)
        assert segment_name not in {found.name for found in list_segments()}
        for owners in ([65534], ["65534"], ["root", "nobody"]):
            with SharedMemoryFrameReader(segment_name, trusted_owners=owners) as reader:
                assert sees(new_frame(reader)[0], 1)
            assert inspect_segment(segment_name, trusted_owners=owners).owner == 65534
        monkeypatch.setenv("BILLIARDS_SHM_TRUSTED_OWNERS", "4711, nobody")
        assert sees(new_frame(SharedMemoryFrameReader(segment_name))[0], 1)
        os.chown(path_of(segment_name), 0, 0)


@pytest.mark.parametrize("owners", [["no such user"], [-1], [2**32 - 1], ["4294967295"]])
def test_a_trusted_owner_that_does_not_exist_is_a_value_error(segment_name: str, owners: list[Any]) -> None:
    with pytest.raises(ValueError, match="trusted owner"):
        SharedMemoryFrameReader(segment_name, trusted_owners=owners)


# ---------------------------------------------------------------- what was ours once


@pytest.fixture
def dead(segment_name: str) -> Path:
    """The object that a killed writer left, with three frames in it."""
    code = """
    writer = SharedMemoryFrameWriter(sys.argv[1], SHAPE)
    for number in (1, 2, 3):
        writer.write_frame(picture(number))
    say("written")
    told()
    """
    with Child(code, segment_name) as child:
        child.says()
        child.kill()
    return path_of(segment_name)


def test_a_file_that_is_too_short_is_refused(segment_name: str, dead: Path) -> None:
    whole = dead.stat().st_size
    for size in (whole - 1, whole - 65536, 131072, 65536, 4096, layout.IDENTITY_BYTES):
        os.truncate(dead, size)
        for name in ("reader", "inspect"):
            with pytest.raises(SegmentFormatError, match=f"{segment_name}.*{size}.*{whole}"):
                LOOKS[name](segment_name)
    for size in (layout.IDENTITY_BYTES - 1, 12, 8):
        os.truncate(dead, size)
        with pytest.raises(SegmentFormatError, match=f"{segment_name}.*{size} bytes"):
            LOOKS["reader"](segment_name)
    dead.unlink()


def test_a_file_that_is_longer_than_necessary_is_read(segment_name: str, dead: Path) -> None:
    os.truncate(dead, dead.stat().st_size + 5)
    with SharedMemoryFrameReader(segment_name) as reader:
        assert sees(new_frame(reader)[0], 3)
    dead.unlink()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("magic", b"BILLISHX", "does not begin with"),
        ("abi_major", 1, r"ABI 1\.0.*2\.x"),
        ("abi_major", 3, r"ABI 3\.0.*2\.x"),
        ("header_bytes", 4096, "header has 4096 bytes, expected 65536"),
        ("byte_order", 0x0D0C0B0A, "0x0d0c0b0a.*0x0a0b0c0d"),
        ("slot_count", 0, "0 slots, expected 3 to 62"),
        ("slot_count", 2, "2 slots, expected 3 to 62"),
        ("slot_count", 63, "63 slots, expected 3 to 62"),
        ("slot_count", 2**32 - 1, "4294967295 slots"),
        ("slot_count", 7, "7 slots for 6 tokens and a history of 0 frames, expected 8"),
        ("slot_count", 9, "9 slots for 6 tokens"),
        ("token_count", 0, "8 slots for 0 tokens"),
        ("token_count", 5, "8 slots for 5 tokens"),
        ("token_count", 2**32 - 2, "8 slots for 4294967294 tokens .* expected 4294967296"),
        ("history", 1, "history of 1 frames"),
        ("history", 2**32 - 1, "history of 4294967295 frames"),
        ("total_bytes", 0, "says 0"),
        ("total_bytes", 2**64 - 1, "says 18446744073709551615"),
        ("slot_stride", 0, "0 bytes apart"),
        ("slot_stride", 65535, "65535 bytes apart"),
        ("slot_stride", 2**64 - 65536, "apart"),
        ("slot_stride", 2**63, "apart"),
        ("slot_stride", 131072, "slots need"),
        ("slot_capacity", 0, "0 bytes"),
        ("slot_capacity", 65537, "65537 bytes"),
        ("slot_capacity", 2**64 - 1, "bytes"),
        ("control_offset", 0, "regions"),
        ("control_offset", 131072, "regions"),
        ("pixels_offset", 65536, "regions"),
        ("pixels_offset", 2**64 - 65536, "regions"),
        ("base_sequence", 2**57, "144115188075855872"),
        ("base_sequence", 2**64 - 1, "18446744073709551615"),
        ("descriptor_offset", 0, "regions"),
        ("descriptor_offset", 65528, "regions"),
    ],
)
def test_an_identity_that_was_forged_with_a_fitting_checksum_is_refused_field_by_field(
    segment_name: str, dead: Path, field: str, value: Any, message: str
) -> None:
    with opened(dead) as segment:
        segment.identity[field] = value
        segment.seal()
    for name in ("reader", "read", "latest", "inspect"):
        with pytest.raises(SegmentFormatError, match=f"{segment_name}.*{message}"):
            LOOKS[name](segment_name)
    assert segment_name not in {found.name for found in list_segments()}
    dead.unlink()


def test_a_segment_of_abi_1_0_is_refused_by_name_and_a_new_writer_replaces_it(segment_name: str) -> None:
    """A file left by a writer of 1.0; readers of 1.0 check the same three fields first."""
    path = path_of(segment_name)
    path.write_bytes(gzip.decompress((Path(__file__).parent / "segment-1.0.gz").read_bytes()))
    path.chmod(0o600)
    for name in ("reader", "read", "latest", "inspect"):
        with pytest.raises(SegmentFormatError, match=rf"'{segment_name}' has ABI 1\.0, expected 2\.x"):
            LOOKS[name](segment_name)
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, SharedMemoryFrameReader(segment_name) as reader:
        assert writer.write_frame(picture(1)) == 1
        assert sees(new_frame(reader)[0], 1)
        with opened(path) as segment:
            assert [segment.identity[field] for field in ("magic", "abi_major", "abi_minor")] == [b"BILLISHM", 2, 0]


@pytest.mark.parametrize("minor", [1, 7, 65535])
def test_a_newer_minor_version_is_read(segment_name: str, dead: Path, minor: int) -> None:
    with opened(dead) as segment:
        segment.identity["abi_minor"] = minor
        segment.seal()
    with SharedMemoryFrameReader(segment_name) as reader:
        assert sees(new_frame(reader)[0], 3)
    assert inspect_segment(segment_name).abi == (2, minor)
    dead.unlink()


def test_a_flipped_bit_anywhere_in_the_identity_is_found(segment_name: str, dead: Path) -> None:
    whole = dead.read_bytes()
    for bit in range(layout.IDENTITY_BYTES * 8):
        changed = bytearray(whole[: layout.IDENTITY_BYTES])
        changed[bit // 8] ^= 1 << bit % 8
        with dead.open("r+b") as file:
            file.write(changed)
        with pytest.raises(SegmentFormatError, match=segment_name):
            SharedMemoryFrameReader(segment_name).attach(timeout=0)
        assert dead.stat().st_size == len(whole)
    with dead.open("r+b") as file:
        file.write(whole[: layout.IDENTITY_BYTES])
    assert sees(new_frame(SharedMemoryFrameReader(segment_name))[0], 3)
    dead.unlink()


@given(at=st.integers(0, layout.IDENTITY_BYTES - 1), content=st.binary(min_size=1, max_size=128), seal=st.booleans())
@settings(max_examples=200)
def test_any_identity_is_read_or_refused(at: int, content: bytes, seal: bool) -> None:
    name = f"test-{os.getpid()}-identity"
    with SharedMemoryFrameWriter(name, SHAPE) as writer:
        writer.write_frame(picture(1))
        with opened(path_of(name)) as segment:
            original = os.pread(segment.file, layout.IDENTITY_BYTES, 0)
            os.pwrite(segment.file, content[: layout.IDENTITY_BYTES - at], at)
            if seal:
                segment.seal()
            refuses = False
            for look in (LOOKS["inspect"], lambda name: new_frame(SharedMemoryFrameReader(name))):
                try:
                    look(name)
                except SegmentFormatError:
                    refuses = True
            assert refuses or seal or os.pread(segment.file, layout.IDENTITY_BYTES, 0) == original
            os.pwrite(segment.file, original, 0)


frame_fields = [name for name, _, form in layout.DESCRIPTOR if form in "QqIi" and name != "seq"]


@pytest.mark.slow
@given(
    values=st.dictionaries(
        st.sampled_from(frame_fields),
        st.one_of(
            st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 2, 3, 4, 8, 16, 64, 2304, 65536, 2**31, 2**32 - 1])
        ),
        min_size=1,
        max_size=4,
    ),
    leases=st.sampled_from([0, 2]),
)
@settings(max_examples=300)
def test_any_descriptor_is_a_frame_inside_its_slot_or_is_refused(values: dict[str, int], leases: int) -> None:
    name = f"test-{os.getpid()}-descriptor"
    with SharedMemoryFrameWriter(name, SHAPE) as writer, SharedMemoryFrameReader(name, max_leases=leases) as reader:
        writer.write_frame(picture(1))
        with opened(path_of(name)) as segment:
            descriptor = segment.descriptor(segment.latest[1])
            for field, value in values.items():
                descriptor[field] = value
            try:
                frame, metadata = reader.read_frame()
            except SegmentFormatError as error:
                assert name in str(error)  # noqa: PT017
            else:
                assert frame is not None
                assert frame.nbytes <= segment.identity["slot_capacity"]
                assert (frame.shape[0], frame.shape[1]) == (metadata.height, metadata.width)
                frame.tobytes()
            inspect_segment(name)


@pytest.mark.parametrize(
    "forged",
    [
        {"width": 0},
        {"height": 0},
        {"channels": 0},
        {"ndim": 1},
        {"ndim": 4},
        {"ndim": 2},
        {"item_size": 0},
        {"item_size": 3},
        {"kind": ord("O")},
        {"kind": 0},
        {"kind": 2**32 - 1},
        {"width": 33},
        {"height": 25},
        {"height": 2**32 - 1},
        {"width": 2**32 - 1, "row_stride": 2**40},
        {"item_size": 8},
        {"row_stride": 95},
        {"row_stride": 97},
        {"row_stride": 2**64 - 96},
        {"row_stride": 65536},
        {"payload_bytes": 0},
        {"payload_bytes": 24 * 32 * 3 - 1},
        {"payload_bytes": 24 * 32 * 3 + 1},
        {"payload_bytes": 2**64 - 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("options", [{}, {"copy": True}, {"max_leases": 0}], ids=["lease", "copy", "no lease"])
def test_a_descriptor_that_contradicts_itself_or_its_slot_is_refused(
    segment_name: str, forged: dict[str, int], options: dict[str, Any]
) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE) as writer,
        SharedMemoryFrameReader(segment_name, **options) as reader,
        opened(path_of(segment_name)) as segment,
    ):
        writer.write_frame(picture(1))
        descriptor = segment.descriptor(segment.latest[1])
        honest = {field: descriptor[field] for field in forged}
        for field, value in forged.items():
            descriptor[field] = value
        for read in (reader.read_frame, reader.latest_frame):
            with pytest.raises(SegmentFormatError, match=segment_name):
                read()
        assert inspect_segment(segment_name).width is None
        assert not any(segment.pins), "no pin is forgotten"
        for field, value in honest.items():
            descriptor[field] = value
        assert sees(new_frame(reader)[0], 1)


@pytest.mark.parametrize("slot", [8, 62, 63])
def test_a_newest_frame_in_a_slot_that_does_not_exist_is_refused(segment_name: str, slot: int) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, opened(path_of(segment_name)) as segment:
        writer.write_frame(picture(1))
        segment.publication["latest"] = 5 << 6 | slot
        for leases in (0, 2):
            with pytest.raises(SegmentFormatError, match=f"{segment_name}.*slot {slot}, but it has 8 slots"):
                SharedMemoryFrameReader(segment_name, max_leases=leases).read_frame()
        inspect_segment(segment_name)


@pytest.mark.parametrize("leases", [0, 2])
def test_a_newest_frame_that_is_never_complete_is_not_read_and_the_wait_times_out(
    segment_name: str, leases: int
) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, SHAPE) as writer,
        SharedMemoryFrameReader(segment_name, max_leases=leases) as reader,
        opened(path_of(segment_name)) as segment,
    ):
        writer.write_frame(picture(1))
        slot = segment.latest[1]
        segment.descriptor(slot)["seq"] = 1
        assert reader.read_frame(timeout=0.05) == (None, None)
        assert reader.statistics.retries > 0
        assert not any(segment.pins), "no pin is forgotten"
        segment.descriptor(slot)["seq"] = 2
        assert sees(new_frame(reader)[0], 1)


def test_a_dead_writers_mark_on_the_newest_slot_does_not_hide_it_from_copies(segment_name: str) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, SharedMemoryFrameReader(segment_name) as reader:
        writer.write_frame(picture(1))
        with opened(path_of(segment_name)) as segment:
            segment.set_pin(segment.latest[1], layout.WRITING)
            frame, metadata = new_frame(reader)
            assert sees(frame, 1)
            assert not metadata.zero_copy


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param({"abi_major": 3}, id="another ABI"),
        pytest.param({"checksum": 5}, id="a wrong checksum"),
        pytest.param({"slot_count": 2**31}, id="an impossible number of slots"),
        pytest.param({"slot_stride": 2**63}, id="an impossible stride"),
    ],
)
def test_a_dead_segment_that_is_damaged_or_of_another_version_is_replaced_and_not_repaired(
    segment_name: str, dead: Path, spoil: dict[str, int]
) -> None:
    with opened(dead) as segment:
        for field, value in spoil.items():
            segment.identity[field] = value
        if "checksum" not in spoil:
            segment.seal()
        content = os.pread(segment.file, layout.PIXELS, 0)
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer, SharedMemoryFrameReader(segment_name) as reader:
            writer.write_frame(picture(9))
            assert sees(new_frame(reader)[0], 9)
            assert os.pread(segment.file, layout.PIXELS, 0) == content, "nothing in it is known, so nothing is touched"


@pytest.mark.parametrize("spoil", [{"abi_major": 3}, {"checksum": 5}])
def test_a_living_segment_of_another_version_is_not_replaced(segment_name: str, spoil: dict[str, int]) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE), opened(path_of(segment_name)) as segment:
        original = {field: segment.identity[field] for field in spoil}
        for field, value in spoil.items():
            segment.identity[field] = value
        with pytest.raises(WriterExistsError):
            SharedMemoryFrameWriter(segment_name, SHAPE)
        assert remove_stale_segments([segment_name]) == []
        for field, value in original.items():
            segment.identity[field] = value


def test_a_reader_meets_a_damaged_successor_with_an_error_and_recovers_when_it_is_gone(segment_name: str) -> None:
    with SharedMemoryFrameReader(segment_name) as reader:
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(1))
            view = new_frame(reader)[0]
        path_of(segment_name).write_bytes(b"BILLISHM" + struct.pack("=H", 1) + bytes(200_000))

        def raises() -> bool:
            try:
                reader.read_frame()
            except SegmentFormatError:
                return True
            return False

        wait_until(raises)
        assert sees(view, 1)
        path_of(segment_name).unlink()
        with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
            writer.write_frame(picture(2))
            assert sees(new_frame(reader)[0], 2)


@pytest.mark.parametrize("error", [SegmentFormatError, SegmentNameError])
def test_errors_of_names_are_value_errors_of_this_package(error: type[Exception]) -> None:
    assert issubclass(error, BilliardsShmError)
    assert issubclass(error, ValueError)
