"""The socket of a recorder: who may ask, what hostile requests get, and that none of them harms the recorder."""

import errno
import json
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from child_processes import Child
from segments_under_test import wait_until

from billiards_shm import ConfigurationError, _core
from billiards_shm.encoder import EncodedFrame, StreamFormat
from billiards_shm.record import control
from billiards_shm.record.control import Answer, ControlSocket, RecorderError, ask, fetched_clip
from billiards_shm.record.places import is_offered, recording_process, remove_stale_sockets, socket_places
from billiards_shm.record.ring import Clip

STREAM = StreamFormat("mjpeg", 64, 48)
FRAMES = [
    EncodedFrame(bytes([number]) * 1000, number % 2 == 0, number * 20_000, number, -(10**15) + number, 7, position)
    for number, position in enumerate([None, 0.5, -1.0, 1e300] * 5)
]


def answer(request: Mapping[str, Any]) -> Answer:
    if request.get("request") == "clip":
        return {"seconds": 0.4}, Clip(STREAM, FRAMES)
    if request.get("request") == "start":
        return {"recording": True}, None
    raise RecorderError(f"unknown request {request.get('request')!r}")


def fetch_clip(name: str, last_s: float, **options: Any) -> Clip:
    with fetched_clip(name, last_s, **options) as clip:
        return Clip(clip.stream, list(clip.frames))


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # A socket's path has at most a hundred characters, and pytest's folders may be longer.
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


@pytest.fixture
def recorder(runtime: Path, segment_name: str) -> Iterator[ControlSocket]:
    with ControlSocket(segment_name, answer) as made:
        yield made


def connected(recorder: ControlSocket) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    found.settimeout(40.0)
    found.connect(str(recorder.path))
    return found


def everything(connection: socket.socket) -> bytes:
    found = b""
    while more := connection.recv(1 << 16):
        found += more
    return found


def test_a_clip_arrives_as_it_is_stored(recorder: ControlSocket, segment_name: str) -> None:
    assert fetch_clip(segment_name, 10.0) == Clip(STREAM, FRAMES)
    assert ask(segment_name, request="start") == {"recording": True}
    with pytest.raises(RecorderError, match="unknown request 'dance'"):
        ask(segment_name, request="dance")


def test_the_socket_is_for_its_owner_alone_and_goes_with_the_recorder(
    recorder: ControlSocket, runtime: Path, segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode = recorder.path.lstat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert list(runtime.iterdir()) == [recorder.path]
    assert is_offered(segment_name)
    recorder.close()
    recorder.close()
    assert list(runtime.iterdir()) == []
    assert not is_offered(segment_name)
    with pytest.raises(
        RecorderError, match=f"no ring of '{segment_name}' is kept: start 'billiards-shm record"
    ) as raised:
        fetch_clip(segment_name, 10.0)
    assert str(raised.value).endswith(
        f"looked for its socket in {runtime} and {Path(_core.object_directory())}, as XDG_RUNTIME_DIR says"
    )
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(RecorderError, match=f" {Path(_core.object_directory())}, because XDG_RUNTIME_DIR is not set$"):
        fetch_clip(segment_name, 10.0)


@pytest.mark.parametrize("runtime_dir", ["", "/nowhere"])
def test_without_a_runtime_directory_it_is_next_to_the_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime_dir: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime_dir)
    folder = tmp_path / ("long" * 40)  # longer than the kernel allows for the name of a socket
    folder.mkdir()
    name = str(folder / "table.seg")
    with ControlSocket(name, answer) as made:
        assert made.path.parent == folder
        assert fetch_clip(name, 1.0).frames == FRAMES
        monkeypatch.chdir(folder)
        assert fetch_clip("./table.seg", 1.0).frames == FRAMES, "by another way to the same file"
    assert list(folder.iterdir()) == []


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.slow  # as root
def test_another_users_socket_in_a_folder_open_to_all_is_reported_as_in_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1777)
        name = str(Path(folder) / "table.seg")
        with as_user(65534):
            stranger = ControlSocket(name, answer)
            stranger.path.chmod(0o777)
        with as_user(65533):
            with pytest.raises(
                ConfigurationError, match="belongs to user 65534; have it removed, or set XDG_RUNTIME_DIR"
            ):
                ControlSocket(name, answer)
            assert recording_process(name) is None
            # The kernel reports whose process is listening; here it is root's.
            monkeypatch.setattr(control, "ROOT", -1)
            with pytest.raises(RecorderError, match="belongs to user 65534, whom you do not trust"):
                fetch_clip(name, 1.0)
            with tempfile.TemporaryDirectory() as own:
                monkeypatch.setenv("XDG_RUNTIME_DIR", own)
                with ControlSocket(name, answer):
                    assert fetch_clip(name, 1.0).frames == FRAMES
        stranger.close()


def test_there_is_one_recorder_for_a_name(recorder: ControlSocket, segment_name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"another process records '{segment_name}' and answers at"):
        ControlSocket(segment_name, answer)
    assert fetch_clip(segment_name, 1.0).frames == FRAMES


@pytest.mark.slow
def test_the_socket_of_a_killed_recorder_is_replaced(runtime: Path, segment_name: str) -> None:
    code = """
    from billiards_shm.record.control import ControlSocket
    made = ControlSocket(sys.argv[1], lambda request: ({}, None))
    say("made")
    told()
    """
    with Child(code, segment_name) as child:
        child.says()
        assert ask(segment_name) == {}
        child.kill()
    assert is_offered(segment_name)
    with pytest.raises(RecorderError, match="no ring of"):
        ask(segment_name)
    with ControlSocket(segment_name, answer):
        assert fetch_clip(segment_name, 1.0).frames == FRAMES


def test_an_unusable_place_is_reported(runtime: Path, segment_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ControlSocket(segment_name, answer) as made:
        path = made.path
    path.mkdir()
    with pytest.raises(ConfigurationError, match=r"no socket can be made at .*: Is a directory"):
        ControlSocket(segment_name, answer)
    assert list(runtime.iterdir()) == [path]


def test_another_users_recorder_says_who_may_ask(
    recorder: ControlSocket, segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object, __: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(RecorderError, match="answers only its own user: run this as that user"):
        fetch_clip(segment_name, 1.0)


def test_a_strangers_socket_is_not_believed(
    recorder: ControlSocket, segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control.os, "geteuid", lambda: os.getuid() + 4711)
    monkeypatch.setattr(control, "ROOT", 10**6)
    with pytest.raises(RecorderError, match=f"belongs to user {os.getuid()}, whom you do not trust"):
        fetch_clip(segment_name, 1.0)
    monkeypatch.setenv("BILLIARDS_SHM_TRUSTED_OWNERS", str(os.getuid()))
    assert fetch_clip(segment_name, 1.0).frames == FRAMES


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xfe\x00" * 100 + b"\n",
        b"[]\n",
        b"null\n",
        b'"clip"\n',
        b"{" * 4000 + b"\n",
        b"[" * 4000 + b"\n",
        b'{"request": ' + b"9" * 4000 + b"}\n",
        b'{"request": NaN}\n',
        b'{"request": ["clip"]}\n',
        b"x" * 10_000_000,
    ],
    ids=range(12),
)
def test_garbage_gets_one_line_and_the_recorder_goes_on(
    recorder: ControlSocket, segment_name: str, garbage: bytes
) -> None:
    with connected(recorder) as connection:
        try:
            connection.sendall(garbage)
            found = everything(connection)
        except (BrokenPipeError, ConnectionResetError):
            found = b""
        if found:
            assert list(json.loads(found)) == ["error"]
    assert fetch_clip(segment_name, 1.0).frames == FRAMES


def test_slow_clients_lose_their_connection_and_delay_no_other(
    recorder: ControlSocket, segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_REQUEST_S", 0.2)
    silent = [connected(recorder) for _ in range(control._CLIENTS - 1)]
    assert fetch_clip(segment_name, 1.0).frames == FRAMES
    for connection in silent:
        assert json.loads(everything(connection) or b'{"error": 0}').keys() == {"error"}
        connection.close()


def test_too_many_clients_are_turned_away_and_the_place_is_free_again_afterwards(
    recorder: ControlSocket, segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_REQUEST_S", 40.0)
    waiting = [connected(recorder) for _ in range(control._CLIENTS)]
    wait_until(lambda: not recorder._clients._value)  # type: ignore[attr-defined]
    for _ in range(3):
        with pytest.raises(RecorderError, match="too many clients ask the recorder at once: try again"):
            fetch_clip(segment_name, 1.0)
    for connection in waiting:
        connection.close()
    wait_until(lambda: recorder._clients._value == control._CLIENTS)  # type: ignore[attr-defined]
    assert fetch_clip(segment_name, 1.0).frames == FRAMES


def test_a_client_that_does_not_read_its_clip_is_dropped(
    runtime: Path, segment_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PROGRESS_S", 0.2)
    large = Clip(STREAM, [frame._replace(data=bytes(1 << 20)) for frame in FRAMES])
    with ControlSocket(segment_name, lambda request: ({}, large)) as recorder:
        with connected(recorder) as idle:
            idle.sendall(b"{}\n")
            wait_until(recorder._clip.locked)
            wait_until(lambda: not recorder._clip.locked())
            assert len(everything(idle)) < sum(len(frame.data) for frame in large.frames)
        assert fetch_clip(segment_name, 1.0) == large


def test_one_clip_is_sent_at_a_time(runtime: Path, segment_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_REQUEST_S", 0.1)
    with ControlSocket(segment_name, answer) as recorder:
        with recorder._clip, pytest.raises(RecorderError, match="recorder is busy with another clip"):
            fetch_clip(segment_name, 1.0)
        assert fetch_clip(segment_name, 1.0).frames == FRAMES


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"no JSON\n",
        b"[]\n",
        b"{}\n",
        b'{"frames": 1}\n',
        b'{"codec": "mjpeg", "width": 1, "height": 1, "pixel_format": "", "frames": "x"}\n',
        b'{"codec": "mjpeg", "width": 1, "height": 1, "pixel_format": "", "frames": 1}\n',
        b'{"codec": "mjpeg", "width": 1, "height": 1, "pixel_format": "", "frames": 1}\n' + b"\xff" * 45,
        b"x" * 5000,
    ],
    ids=range(9),
)
def test_malformed_answers_are_a_separate_error(runtime: Path, segment_name: str, said: bytes) -> None:
    with ControlSocket(segment_name, answer) as recorder:
        path = recorder.path
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def reply() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(said)

        replying = threading.Thread(target=reply)
        replying.start()
        with pytest.raises(RecorderError, match=f"the recorder of '{segment_name}' "):
            fetch_clip(segment_name, 1.0, timeout=40.0)
        replying.join()


def test_waiting_for_an_answer_that_never_arrives_times_out(runtime: Path, segment_name: str) -> None:
    told = threading.Event()

    def late(request: Mapping[str, Any]) -> Answer:
        told.wait(40.0)
        return {}, None

    with ControlSocket(segment_name, late):
        with pytest.raises(RecorderError, match=r"did not answer within 0\.2 s"):
            ask(segment_name, timeout=0.2)
        told.set()


def test_a_recorder_that_is_too_busy_to_answer_keeps_its_socket(runtime: Path, segment_name: str) -> None:
    path = socket_places(segment_name)[0]
    with ExitStack() as waiting, socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(3):
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.connect(str(path))
        with pytest.raises(RecorderError, match="too many clients ask the recorder at once: try again"):
            fetch_clip(segment_name, 1.0)
        inode = path.stat().st_ino
        with pytest.raises(ConfigurationError, match="another process records"):
            ControlSocket(segment_name, answer)
        assert path.stat().st_ino == inode


def test_clean_removes_only_the_sockets_of_dead_recorders(
    recorder: ControlSocket, runtime: Path, segment_name: str
) -> None:
    left = [place.with_name(place.name[:-21] + "0123456789abcdef.sock") for place in socket_places(segment_name)]
    for path in left:
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(str(path))
            gone.listen()
    other = runtime / "billiards_shm-precious.sock"
    other.touch()
    removed = remove_stale_sockets()  # also those of recorders that were killed elsewhere
    assert [path for path in removed if Path(path) in left] == [str(path) for path in reversed(left)]
    assert not remove_stale_sockets()
    assert sorted(runtime.iterdir()) == sorted([recorder.path, other])
    assert ask(segment_name, request="start") == {"recording": True}
