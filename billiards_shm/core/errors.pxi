"""Codes of the core as exceptions."""

import errno

from billiards_shm import errors as _errors

_ERROR_OF_CODE = {
    _abi.BSHM_E_NAME: _errors.SegmentNameError,
    _abi.BSHM_E_NOT_FOUND: _errors.SegmentNotFoundError,
    _abi.BSHM_E_FORMAT: _errors.SegmentFormatError,
    _abi.BSHM_E_EXISTS: _errors.WriterExistsError,
    _abi.BSHM_E_FULL: _errors.SharedMemoryFullError,
    _abi.BSHM_E_PERMISSION: _errors.SegmentPermissionError,
    _abi.BSHM_E_SHAPE: _errors.FrameShapeError,
    _abi.BSHM_E_LOAN: _errors.LoanError,
    _abi.BSHM_E_CLOSED: ValueError,
    _abi.BSHM_E_ARGUMENT: ValueError,
    _abi.BSHM_E_MEMORY: MemoryError,
    _abi.BSHM_E_SYSTEM: _errors.SegmentSystemError,
}


_ERRNO_OF_CODE = {  # for exceptions that are OSErrors too
    _abi.BSHM_E_NOT_FOUND: errno.ENOENT,
    _abi.BSHM_E_EXISTS: errno.EEXIST,
    _abi.BSHM_E_FULL: errno.ENOSPC,
    _abi.BSHM_E_PERMISSION: errno.EACCES,
}


def _error_of(int code, str message, int system_errno):
    """The exception for an error code of the core; no other place makes one."""
    error = _ERROR_OF_CODE.get(code, _errors.BilliardsShmError)(message)
    if isinstance(error, OSError):
        error.errno = system_errno or _ERRNO_OF_CODE.get(code)
    return error


cdef object _exception(_abi.bshm_error *error):
    return _error_of(error.code, (<bytes> error.message).decode("utf-8", "replace"), error.system_errno)
