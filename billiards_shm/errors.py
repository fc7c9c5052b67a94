"""The exceptions of billiards_shm.

Every error that the package raises on purpose is a `BilliardsShmError`. Each also inherits the builtin exception that
fits. The message says what was found, what was expected, and what to do about it.
"""

__all__ = [
    "BilliardsShmError",
    "CameraError",
    "ConfigurationError",
    "DamagedSourceError",
    "FrameShapeError",
    "LoanError",
    "SegmentFormatError",
    "SegmentNameError",
    "SegmentNotFoundError",
    "SegmentPermissionError",
    "SegmentSystemError",
    "SharedMemoryFullError",
    "WriterExistsError",
]


class BilliardsShmError(Exception):
    """Base of every error of this package."""


class SegmentNameError(BilliardsShmError, ValueError):
    """The name is not valid for a segment, or leads to a file system that cannot hold one."""


class SegmentNotFoundError(BilliardsShmError, FileNotFoundError):
    """No segment has this name."""


class SegmentFormatError(BilliardsShmError, ValueError):
    """The object under the name is not a segment of this version: foreign, corrupt, too short, or another ABI."""


class WriterExistsError(BilliardsShmError, FileExistsError):
    """The name belongs to a living writer."""


class SharedMemoryFullError(BilliardsShmError, OSError):
    """The file system that holds the segment has no room for it; the message names the bytes needed."""


class SegmentPermissionError(BilliardsShmError, PermissionError):
    """You may not open the object, or its owner is not trusted."""


class SegmentSystemError(BilliardsShmError, OSError):
    """A system call failed for a reason that has no separate error here."""


class FrameShapeError(BilliardsShmError, ValueError):
    """The frame or slot has a shape or dtype that cannot be published."""


class LoanError(BilliardsShmError, RuntimeError):
    """A slot is lent already: publish or cancel it first."""


class ConfigurationError(BilliardsShmError, ValueError):
    """A configuration key or value is wrong; the message says where it is and what is allowed."""


class CameraError(BilliardsShmError, RuntimeError):
    """The source could not be opened or read."""


class DamagedSourceError(CameraError):
    """A recording holds too many frames in a row that cannot be decoded."""
