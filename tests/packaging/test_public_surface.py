"""The names that users type: they do not change."""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest

import billiards_shm
from billiards_shm import (
    FrameMetadata,
    SegmentStatus,
    SharedMemoryFrameReader,
    SharedMemoryFrameWriter,
    SourceState,
    VideoConsumer,
    _core,
)
from billiards_shm.pixel_formats import PIXEL_FORMATS

PACKAGE = Path(billiards_shm.__file__).parent

PUBLIC = {
    "BilliardsShmError",
    "CameraError",
    "ConfigurationError",
    "DamagedSourceError",
    "Frame",
    "FrameIterator",
    "FrameMetadata",
    "FrameSet",
    "FrameSets",
    "FrameShapeError",
    "LoanError",
    "LoanedSlot",
    "ReaderInfo",
    "ReaderStatistics",
    "SegmentFormatError",
    "SegmentInfo",
    "SegmentNameError",
    "SegmentNotFoundError",
    "SegmentPermissionError",
    "SegmentStatus",
    "SegmentSystemError",
    "SharedMemoryFrameReader",
    "SharedMemoryFrameWriter",
    "SharedMemoryFullError",
    "SourceState",
    "VideoConsumer",
    "WriterExistsError",
    "WriterStatistics",
    "get_include",
    "inspect_segment",
    "list_segments",
    "planes",
    "remove_stale_segments",
}


def test_all_is_the_public_surface() -> None:
    assert sorted(billiards_shm.__all__) == billiards_shm.__all__
    assert set(billiards_shm.__all__) == PUBLIC
    modules = {name for name, value in vars(billiards_shm).items() if inspect.ismodule(value)}
    public = {name for name in vars(billiards_shm) if not name.startswith("_")} - modules
    assert public == PUBLIC, "nothing is public by accident"


def test_everything_that_exposes_memory_documents_how_long_it_lives() -> None:
    exposing: list[Any] = [
        billiards_shm.Frame,
        billiards_shm.LoanedSlot,
        SharedMemoryFrameReader,
        SharedMemoryFrameReader.read_frame,
    ]
    for thing in exposing:
        assert "**Lifetime.**" in (inspect.getdoc(thing) or ""), thing


def test_the_version_is_the_installed_packages() -> None:
    from importlib.metadata import version

    assert billiards_shm.__version__ == version("billiards-shm")


def declared() -> dict[str, dict[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Methods of the classes that `_core.pyi` declares."""
    found = {}
    for node in ast.parse((PACKAGE / "_core.pyi").read_text()).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    return found


def spelled(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Parameters and their defaults, without types."""
    for argument in [*function.args.args, *function.args.kwonlyargs, *function.args.posonlyargs]:
        argument.annotation = None
    return ast.unparse(function.args)


@pytest.mark.parametrize(
    ("class_name", "method", "parameters"),
    [
        (
            "SharedMemoryFrameWriter",
            "__init__",
            (
                "self, name, shape, *, dtype='uint8', pixel_format='BGR24', slots=8, history=0, mode=384, "
                "group=None, trusted_owners=None"
            ),
        ),
        (
            "SharedMemoryFrameWriter",
            "write_frame",
            (
                "self, frame, *, capture_time_ns=None, position_ms=None, online=True, "
                "pixel_format=None, clock=None, source_sequence=None, wall_time_ns=None"
            ),
        ),
        (
            "SharedMemoryFrameWriter",
            "loan",
            (
                "self, shape=None, *, dtype=None, capture_time_ns=None, position_ms=None, online=True, "
                "pixel_format=None, clock=None, source_sequence=None"
            ),
        ),
        ("SharedMemoryFrameWriter", "close", "self"),
        ("SegmentReader", "__init__", "self, name, *, max_leases=2, copy=False, trusted_owners=None"),
        ("SegmentReader", "attach", "self, timeout=5.0"),
        ("SegmentReader", "read_frame", "self, timeout=0.0, *, copy=None, format=None, sequence=None"),
        ("SegmentReader", "read_next", "self, timeout=0.0, *, copy=None, format=None"),
        ("SegmentReader", "frame_at", "self, capture_time_ns, *, copy=None, format=None"),
        ("SegmentReader", "latest_frame", "self, *, copy=None, format=None"),
        ("SegmentReader", "close", "self"),
        (
            "LoanedSlot",
            "publish",
            "self, *, capture_time_ns=None, position_ms=None, online=None, clock=None, source_sequence=None",
        ),
        ("LoanedSlot", "cancel", "self"),
    ],
)
def test_the_core_takes_these_parameters_with_these_defaults(class_name: str, method: str, parameters: str) -> None:
    assert spelled(declared()[class_name][method]) == parameters
    if method != "__init__":
        text = inspect.getdoc(getattr(getattr(_core, class_name), method)) or ""
        signature = text.splitlines()[0] if text else ""
        for parameter in parameters.split(", ")[1:]:
            assert parameter.replace("384", "0o600") in signature.replace('"', "'") or parameter == "*", signature


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (SharedMemoryFrameReader.frames, "(self, *, follow, every, timeout)"),
        (
            billiards_shm.FrameSets,
            "(names, *, tolerance_ms, follow, timeout, copy, max_leases, trusted_owners)",
        ),
        (billiards_shm.inspect_segment, "(name, *, trusted_owners)"),
        (billiards_shm.list_segments, "(paths, *, trusted_owners)"),
        (billiards_shm.remove_stale_segments, "(names, *, trusted_owners)"),
    ],
)
def test_functions_take_these_parameters(function: Any, expected: str) -> None:
    signature = inspect.signature(function)
    bare = signature.replace(
        parameters=[
            parameter.replace(annotation=inspect.Parameter.empty, default=inspect.Parameter.empty)
            for parameter in signature.parameters.values()
        ],
        return_annotation=inspect.Signature.empty,
    )
    assert str(bare) == expected


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (SharedMemoryFrameReader, "__iter__ __aiter__ __enter__ __exit__"),
        (SharedMemoryFrameWriter, "write_frame loan close name sequence statistics update_source __enter__ __exit__"),
        (
            SharedMemoryFrameReader,
            "attach read_frame latest_frame frames close status source_state source_reason last_frame_age statistics",
        ),
        (
            FrameMetadata,
            """sequence skipped capture_time_ns publish_time_ns wall_time_ns position_ms width height channels dtype
            pixel_format generation zero_copy online""",
        ),
        (billiards_shm.ReaderStatistics, "frames skipped copies retries"),
        (billiards_shm.WriterStatistics, "published dropped"),
        (billiards_shm.FrameSets, "__iter__ __aiter__ __enter__ __exit__ close unmatched skipped"),
        (VideoConsumer, "isOpened open read grab retrieve get set release getBackendName"),
    ],
)
def test_classes_have_these_attributes(owner: type, names: str) -> None:
    assert [name for name in names.split() if not hasattr(owner, name)] == []


def test_the_states_have_these_values() -> None:
    assert {state.name: str(state) for state in SegmentStatus} == {
        "LIVE": "live",
        "CLOSED": "closed",
        "DEAD": "dead",
        "DETACHED": "detached",
    }
    assert [str(state) for state in SourceState] == [
        "unknown",
        "opening",
        "streaming",
        "stalled",
        "reconnecting",
        "ended",
    ]


def test_pixel_formats_and_limits() -> None:
    promised = {
        *("BGR24", "RGB24", "BGRA32", "GRAY8", "GRAY16"),
        *("YUYV", "UYVY", "NV12", "NV21", "I420", "YV12", "P010"),
        *("BAYER_RGGB8", "BAYER_BGGR8", "BAYER_GRBG8", "BAYER_GBRG8", "MJPG", "RAW"),
    }
    assert promised <= PIXEL_FORMATS.keys()
    assert (_core.MIN_SLOTS, _core.MAX_SLOTS) == (3, 62)


@pytest.mark.parametrize("name", ["FrameMetadata", "Frame", "LoanedSlot", "ReaderStatistics"])
def test_objects_made_by_readers_and_writers_cannot_be_made_by_hand(name: str) -> None:
    with pytest.raises(TypeError, match="created"):
        getattr(billiards_shm, name)()
