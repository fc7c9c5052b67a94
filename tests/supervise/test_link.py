"""Messages to a supervisor that does not read them, because it is stopped by SIGSTOP."""

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Iterator

import pytest
from child_processes import Child
from segments_under_test import sleeps_or_has_ended, wait_until

from billiards_shm.supervise import link as link_module
from billiards_shm.supervise.link import LARGEST_MESSAGE, SupervisorLink

ENDED = {"kind": "ended", "finished": True, "error": ""}


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection, the supervisor's first. It has no room for another message."""
    supervisor, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with supervisor, child:
        fill(child)
        yield supervisor, child


def fill(child: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            child.send(b"{}", socket.MSG_DONTWAIT)


def ending(child: socket.socket) -> threading.Thread:
    """A thread that sends a finished source's end, and waits or is done with that."""

    def end() -> None:
        SupervisorLink(child).ended("", finished=True)
        child.close()

    thread = threading.Thread(target=end)
    thread.start()
    wait_until(lambda: sleeps_or_has_ended(thread))
    return thread


def test_the_end_of_a_finished_source_arrives(connection: tuple[socket.socket, socket.socket]) -> None:
    supervisor, child = connection
    thread = ending(child)
    *_, last = iter(lambda: supervisor.recv(LARGEST_MESSAGE), b"")
    assert json.loads(last) == ENDED
    thread.join()


def test_a_supervisor_that_dies_is_not_waited_for(
    connection: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[int] = []
    monkeypatch.setattr(link_module.signal, "raise_signal", raised.append)
    supervisor, child = connection
    thread = ending(child)
    supervisor.close()
    thread.join()
    assert raised == [signal.SIGTERM]


def test_progress_and_a_stop_do_not_wait(connection: tuple[socket.socket, socket.socket]) -> None:
    _, child = connection
    link = SupervisorLink(child)
    link.started()
    link.ended("", finished=False)


def test_a_signal_ends_the_wait() -> None:
    code = """
    import socket
    from billiards_shm.supervise.link import SupervisorLink

    supervisor, child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        while True:
            child.send(b"{}", socket.MSG_DONTWAIT)
    except BlockingIOError:
        say("full")
    SupervisorLink(child).ended("", finished=True)
    say("sent")
    """
    with Child(code) as process:
        assert process.says() == "full"
        wait_until(lambda: process.sleeps)
        process.process.terminate()
        assert process.ends() == -signal.SIGTERM
