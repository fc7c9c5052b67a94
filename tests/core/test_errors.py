"""Every core error becomes one exception, which also code that does not know this package can catch."""

import errno
import os
import pickle
import re
from pathlib import Path

import pytest
from repository import CSRC
from segments_under_test import LARGER, SHAPE, path_of, picture

import billiards_shm
from billiards_shm import (
    BilliardsShmError,
    CameraError,
    ConfigurationError,
    DamagedSourceError,
    FrameShapeError,
    LoanError,
    SegmentFormatError,
    SegmentNameError,
    SegmentNotFoundError,
    SegmentPermissionError,
    SegmentSystemError,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    SharedMemoryFullError,
    WriterExistsError,
    _core,
    errors,
    inspect_segment,
)

HEADER = CSRC / "billiards_shm.h"

BUILTINS = {
    SegmentNameError: ValueError,
    SegmentNotFoundError: FileNotFoundError,
    SegmentFormatError: ValueError,
    WriterExistsError: FileExistsError,
    SharedMemoryFullError: OSError,
    SegmentPermissionError: PermissionError,
    SegmentSystemError: OSError,
    FrameShapeError: ValueError,
    LoanError: RuntimeError,
    ConfigurationError: ValueError,
    CameraError: RuntimeError,
    DamagedSourceError: RuntimeError,
}

EXCEPTIONS = {
    "NAME": SegmentNameError,
    "NOT_FOUND": SegmentNotFoundError,
    "FORMAT": SegmentFormatError,
    "EXISTS": WriterExistsError,
    "FULL": SharedMemoryFullError,
    "PERMISSION": SegmentPermissionError,
    "SHAPE": FrameShapeError,
    "LOAN": LoanError,
    "CLOSED": ValueError,
    "ARGUMENT": ValueError,
    "MEMORY": MemoryError,
    "SYSTEM": SegmentSystemError,
}


def codes() -> dict[str, int]:
    """The codes that the header declares."""
    return {name: int(value) for name, value in re.findall(r"BSHM_E_(\w+) = (-\d+)", HEADER.read_text())}


def test_the_header_declares_the_codes_that_are_tested_here() -> None:
    assert codes().keys() == EXCEPTIONS.keys() | {"TORN"}, "a copy that met a newer frame is never shown to anybody"
    assert sorted(codes().values()) == list(range(-len(codes()), 0))
    assert f"#define BSHM_CODE_COUNT {len(codes()) + 1}" in HEADER.read_text()


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_every_code_becomes_its_exception_with_the_message_untouched(name: str) -> None:
    error = _core._error_of(codes()[name], "what was found", 0)
    assert type(error) is EXCEPTIONS[name]
    assert str(error) == "what was found"


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_the_systems_reason_is_kept_where_the_exception_has_a_place_for_it(name: str) -> None:
    error = _core._error_of(codes()[name], "what was found", errno.ENOSPC)
    assert str(error) == "what was found"
    if isinstance(error, OSError):
        assert error.errno == errno.ENOSPC


def test_an_unknown_code_is_an_error_of_this_package() -> None:
    assert type(_core._error_of(-99, "?", 0)) is BilliardsShmError


@pytest.mark.parametrize(("error", "builtin"), BUILTINS.items())
def test_every_error_is_of_this_package_and_a_builtin_too(error: type[Exception], builtin: type[Exception]) -> None:
    assert issubclass(error, BilliardsShmError)
    assert issubclass(error, builtin)
    assert error.__doc__
    assert getattr(billiards_shm, error.__name__) is error


def test_no_error_is_missing_from_the_table() -> None:
    assert {getattr(errors, name) for name in errors.__all__} == BUILTINS.keys() | {BilliardsShmError}


@pytest.mark.parametrize("error", BUILTINS)
def test_errors_survive_being_sent_to_another_process(error: type[Exception]) -> None:
    again = pickle.loads(pickle.dumps(error("a message")))
    assert type(again) is error
    assert str(again) == "a message"


def test_errors_of_the_system_have_the_number_that_their_builtin_promises(segment_name: str) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        inspect_segment(segment_name)
    assert missing.value.errno == errno.ENOENT
    with SharedMemoryFrameWriter(segment_name, SHAPE), pytest.raises(FileExistsError) as exists:
        SharedMemoryFrameWriter(segment_name, SHAPE)
    assert exists.value.errno == errno.EEXIST


def test_too_many_open_files_is_an_error_with_advice_and_nothing_is_left(segment_name: str) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    with SharedMemoryFrameWriter(segment_name, SHAPE) as writer:
        writer.write_frame(picture(1))
        held: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
        try:
            while True:
                try:
                    held.append(os.open("/dev/null", os.O_RDONLY))
                except OSError:
                    break
            with pytest.raises(SegmentSystemError, match=r"open files.*ulimit -n") as caught:
                SharedMemoryFrameReader(segment_name).attach(timeout=0)
            assert caught.value.errno == errno.EMFILE
            for shape in (LARGER, SHAPE):
                with pytest.raises(SegmentSystemError, match=r"ulimit -n"):
                    SharedMemoryFrameWriter(segment_name + "-b", shape)
            with pytest.raises(SegmentSystemError, match=r"ulimit -n"):
                writer.write_frame(picture(2, LARGER))
            assert writer.write_frame(picture(2)) == 2, "the segment there is goes on"
            os.close(held.pop())
            with pytest.raises(SegmentSystemError, match=r"ulimit -n"):  # a segment needs two
                SharedMemoryFrameWriter(segment_name + "-b", SHAPE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for file in held:
                os.close(file)
        assert writer.write_frame(picture(3, LARGER)) == 3
    assert not path_of(segment_name + "-b").exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (WriterExistsError, ["stop it", "another name"]),
        (SegmentNotFoundError, ["is its writer running?"]),
        (SegmentFormatError, ["BILLISHM", "choose another name"]),
        (SegmentNameError, ["letters, digits"]),
    ],
)
def test_a_message_says_what_to_do(segment_name: str, error: type[Exception], words: list[str]) -> None:
    with SharedMemoryFrameWriter(segment_name, SHAPE):
        path_of(segment_name + "-foreign").write_bytes(b"hello" * 100)
        causes = {
            WriterExistsError: lambda: SharedMemoryFrameWriter(segment_name, SHAPE),
            SegmentNotFoundError: lambda: inspect_segment(segment_name + "-none"),
            SegmentFormatError: lambda: inspect_segment(segment_name + "-foreign"),
            SegmentNameError: lambda: inspect_segment("what a name!"),
        }
        with pytest.raises(error) as caught:
            causes[error]()
        assert all(word in str(caught.value) for word in words)
        path_of(segment_name + "-foreign").unlink()
