"""Exit codes of the command line, the code for each error, and the text of an error."""

from typing import Final

from billiards_shm.errors import (
    BilliardsShmError,
    CameraError,
    ConfigurationError,
    DamagedSourceError,
    FrameShapeError,
    LoanError,
    SegmentNameError,
)

__all__ = [
    "EXIT_FAILURE",
    "EXIT_OK",
    "EXIT_SHARED_MEMORY",
    "EXIT_SOME_FAILED",
    "EXIT_SOURCE",
    "EXIT_USAGE",
    "exit_code_of",
    "text_of",
]

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_SOURCE: Final = 3
EXIT_SHARED_MEMORY: Final = 4
EXIT_SOME_FAILED: Final = 5
"""Some of several sources failed for good; the others are finished."""

# By module: its name, and the extra that installs it. All others come with `cli`.
_NEEDED: Final = {
    "cv2": ("OpenCV", "headless"),
    "av": ("PyAV", "av"),
    "zenoh": ("Eclipse Zenoh", "mirror"),
    **{name: (name, "serve") for name in ("fastapi", "starlette", "uvicorn", "prometheus_client")},
}


def exit_code_of(error: BaseException) -> int:
    """The exit code for an error."""
    match error:
        case ConfigurationError() | SegmentNameError():
            return EXIT_USAGE
        case DamagedSourceError() | FrameShapeError() | LoanError():
            return EXIT_FAILURE
        case CameraError():
            return EXIT_SOURCE
        case BilliardsShmError():
            return EXIT_SHARED_MEMORY
        case _:
            return EXIT_FAILURE


def text_of(error: BilliardsShmError | OSError | ImportError) -> str:
    """What is wrong, without the system's error number; for a package that is missing, how to install it."""
    if isinstance(error, BilliardsShmError | TimeoutError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        what, extra = _NEEDED.get(error.name or "", (error.name, "cli"))
        return f"this command needs {what}: pip install 'billiards-shm[{extra}]'"
    if isinstance(error, ImportError):
        return f"{error}; if a GUI library is missing: pip install 'billiards-shm[headless]'"
    reason = error.strerror or str(error)
    return f"{reason}: {error.filename}" if error.filename else reason
