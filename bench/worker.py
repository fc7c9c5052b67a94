"""A process that runs jobs, one by one, and keeps what they opened in between."""

import multiprocessing
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from types import SimpleNamespace, TracebackType
from typing import Any, Self

# Spawned, because threads that the rivals start do not survive a fork.
CONTEXT = multiprocessing.get_context("spawn")
PATIENCE_S = 120.0


class WorkerError(RuntimeError):
    """A job failed in its process, or the process died; the message ends with its output."""


class Worker:
    """One process. Jobs are functions of a module; the first argument they get is the worker's own namespace."""

    def __init__(self, **kept: Any) -> None:
        self._pipe, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_serve, args=(theirs, kept), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def begin(self, job: Callable[..., Any], *arguments: Any) -> None:
        """Start a job; call `result` afterwards."""
        try:
            self._pipe.send((job, arguments))
        except BrokenPipeError as error:
            raise WorkerError(f"{job.__name__}: its process is gone") from error

    def result(self, seconds: float = PATIENCE_S) -> Any:
        """The return value of the oldest job. WorkerError: it failed, or took longer than that."""
        try:
            if not self._pipe.poll(seconds):
                raise WorkerError(f"no answer within {seconds:g} s")
            succeeded, value = self._pipe.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join()
            raise WorkerError(f"its process ended with {self._process.exitcode}") from error
        if not succeeded:
            raise WorkerError(value)
        return value

    def call(self, job: Callable[..., Any], *arguments: Any) -> Any:
        """Both."""
        self.begin(job, *arguments)
        return self.result()

    def close(self) -> None:
        """End the process; it is killed after two seconds."""
        self._pipe.close()
        self._process.join(2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serve(pipe: Connection, kept: dict[str, Any]) -> None:
    """Serve until the other end is closed; kept objects go with the namespace. Ctrl+C reaches this process, too."""
    state = SimpleNamespace(**kept)
    with suppress(EOFError, ConnectionResetError, BrokenPipeError, KeyboardInterrupt):
        while True:
            job, arguments = pipe.recv()
            try:
                answer = (True, job(state, *arguments))
            except Exception:
                answer = (False, traceback.format_exc())
            pipe.send(answer)
