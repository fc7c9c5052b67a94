"""A USB camera that delivers Motion JPEG, to the kernel's own driver `uvcvideo`: this process at the far end of USB/IP.

    python usb_camera.py DIRECTORY WIDTH HEIGHT FPS

Sends the JPEGs in the directory in the order of their names, over and over, and starts with the first whenever the host
starts the stream. An empty file is a frame that the camera loses. DIRECTORY/sent gets a line for each frame sent:
CLOCK_MONOTONIC in nanoseconds before the first byte and after the last, and the name. The camera is plugged in for as
long as this process runs.

The kernel's function `uvc` on `dummy_hcd` would be a camera too, but the function has only isochronous transfers, and
`dummy_hcd` has none. On gadgetfs the host can send its next request before a process has read the previous one.
"""

import select
import socket
import struct
import sys
import time
from collections import deque
from pathlib import Path
from typing import Final

BUS: Final = Path("/sys/devices/platform/vhci_hcd.0")
HIGH_SPEED: Final = 3
UNLINK, SUBMITTED, UNLINKED = 2, 3, 4
BROKEN_PIPE, CONNECTION_RESET = -32, -104

GET_STATUS, GET_DESCRIPTOR = 0, 6
SET_CURRENT, GET_LENGTH, GET_INFO = 0x01, 0x85, 0x86
PROBE, COMMIT = 1, 2
LARGEST_FRAME: Final = 2 << 20
LARGEST_PAYLOAD: Final = 1 << 16
PACKET: Final = 512
END_OF_FRAME: Final = 0x02


def described(*fields: bytes) -> bytes:
    body = b"".join(fields)
    return bytes([len(body) + 1]) + body


DEVICE: Final = struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x0200, 0xEF, 2, 1, 64, 0x1D6B, 0x0102, 0x0100, 0, 0, 0, 1)


def configuration(width: int, height: int, interval: int) -> bytes:
    """The descriptors: one camera terminal connected to one stream of Motion JPEG, with one size and rate."""
    terminals = (
        described(struct.pack("<BBBHBBHHHBH", 0x24, 2, 1, 0x0201, 0, 0, 0, 0, 0, 2, 0))  # the camera
        + described(struct.pack("<BBBHBBB", 0x24, 3, 2, 0x0101, 0, 1, 0))  # to USB
    )
    control = described(struct.pack("<BBHHIBB", 0x24, 1, 0x0100, 13 + len(terminals), 48_000_000, 1, 1)) + terminals
    frame = described(
        struct.pack("<BBBBHH", 0x24, 7, 1, 0, width, height),
        struct.pack("<IIIIBI", 0, 0xFFFFFFFF, LARGEST_FRAME, interval, 1, interval),
    )
    formats = described(struct.pack("<BBBBBBBBBB", 0x24, 6, 1, 1, 0, 1, 0, 0, 0, 0)) + frame
    stream = described(struct.pack("<BBBHBBBBBBBB", 0x24, 1, 1, 14 + len(formats), 0x81, 0, 2, 0, 0, 0, 1, 0)) + formats
    body = (
        struct.pack("<BBBBBBBB", 8, 11, 0, 2, 14, 3, 0, 0)
        + struct.pack("<BBBBBBBBB", 9, 4, 0, 0, 0, 14, 1, 0, 0)
        + control
        + struct.pack("<BBBBBBBBB", 9, 4, 1, 0, 1, 14, 2, 0, 0)
        + stream
        + struct.pack("<BBBBHB", 7, 5, 0x81, 2, PACKET, 0)
    )
    return struct.pack("<BBHBBBBB", 9, 2, 9 + len(body), 2, 1, 0, 0xC0, 1) + body


class Camera:
    """Answers the host's requests, and its reads of the stream as frames become due."""

    def __init__(self, directory: Path, width: int, height: int, fps: int) -> None:
        self._directory = directory
        self._seconds = 1 / fps
        interval = 10_000_000 // fps
        self._descriptors = {1: DEVICE, 2: configuration(width, height, interval)}
        # The negotiated values: UVC 1.0, table 4-47.
        self._agreed = struct.pack("<HBBIHHHHHII", 0, 1, 1, interval, 0, 0, 0, 0, 0, LARGEST_FRAME, LARGEST_PAYLOAD)
        self._reads: deque[tuple[int, int]] = deque()
        self._stream = Stream(directory, self._seconds)
        self._socket, host = socket.socketpair()
        with host:
            Path(BUS, "attach").write_text(f"0 {host.fileno()} 1 {HIGH_SPEED}")

    def serve(self) -> None:
        while True:
            while self._reads and self._stream.waits() == 0:
                number, length = self._reads.popleft()
                self._answer(number, self._stream.read(length))
            if select.select([self._socket], [], [], self._stream.waits() if self._reads else None)[0]:
                self._take_request()

    def _take_request(self) -> None:
        request = self._receive(48)
        command, number, _, inwards, endpoint = struct.unpack_from(">IIIII", request)
        if command == UNLINK:
            (unlinked,) = struct.unpack_from(">I", request, 20)
            waiting = [read for read in self._reads if read[0] == unlinked]
            self._reads = deque(read for read in self._reads if read not in waiting)
            self._send(UNLINKED, number, CONNECTION_RESET if waiting else 0, 0)
            return
        (length,) = struct.unpack_from(">i", request, 24)
        if endpoint:
            self._reads.append((number, length))
            return
        kind, what, value, _, most = struct.unpack("<BBHHH", request[40:])
        if not inwards:
            self._receive(length)
            if (kind, what, value >> 8) == (0x21, SET_CURRENT, COMMIT):
                self._stream = Stream(self._directory, self._seconds)
            self._send(SUBMITTED, number, 0, length)
        elif (kind, what) == (0x80, GET_DESCRIPTOR) and value >> 8 in self._descriptors:
            self._answer(number, self._descriptors[value >> 8][:most])
        elif kind == 0xA1 and value >> 8 in (PROBE, COMMIT):
            answers = {GET_LENGTH: struct.pack("<H", len(self._agreed)), GET_INFO: b"\x03"}
            self._answer(number, answers.get(what, self._agreed)[:most])
        elif (kind, what) == (0x80, GET_STATUS):
            self._answer(number, b"\x01\0")
        else:
            self._send(SUBMITTED, number, BROKEN_PIPE, 0)

    def _answer(self, number: int, data: bytes) -> None:
        self._send(SUBMITTED, number, 0, len(data), data)

    def _send(self, answer: int, number: int, status: int, length: int, data: bytes = b"") -> None:
        self._socket.sendall(struct.pack(">IIIIIii20x", answer, number, 0, 0, 0, status, length) + data)

    def _receive(self, size: int) -> bytes:
        data = self._socket.recv(size, socket.MSG_WAITALL) if size else b""
        if len(data) < size:
            raise SystemExit("unplugged")
        return data


class Stream:
    """The JPEGs as the host reads them: in payloads, each of which ends where a read returns less than requested."""

    def __init__(self, directory: Path, seconds: float) -> None:
        self._jpegs = [(path.name, path.read_bytes()) for path in sorted(directory.glob("*.jpg"))]
        self._sent = Path(directory, "sent")
        self._sent.write_text("")
        self._seconds = seconds
        self._number = self._toggle = 0
        self._payloads: deque[bytes] = deque()
        self._due = time.monotonic()

    def waits(self) -> float:
        """Seconds until there is something to read."""
        while not self._payloads and not self._jpegs[self._number % len(self._jpegs)][1]:
            self._count()
        return 0.0 if self._payloads else max(0.0, self._due - time.monotonic())

    def read(self, length: int) -> bytes:
        if not self._payloads:
            self._name, data = self._jpegs[self._number % len(self._jpegs)]
            self._payloads.extend(payloads(data, self._toggle))
            self._began_ns = time.monotonic_ns()
        part, rest = self._payloads[0][:length], self._payloads[0][length:]
        if len(part) == length:
            self._payloads[0] = rest
            return part
        self._payloads.popleft()
        if not self._payloads:
            with self._sent.open("a") as sent:
                print(self._began_ns, time.monotonic_ns(), self._name, file=sent)
            self._toggle = 1 - self._toggle
            self._count()
        return part

    def _count(self) -> None:
        self._number += 1
        self._due += self._seconds


def payloads(data: bytes, toggle: int) -> list[bytes]:
    """A frame in parts, with a header of two bytes before each. A payload of the largest size would need no end."""
    most = LARGEST_PAYLOAD - 2 - 1
    parts = [data[place : place + most] for place in range(0, len(data), most)]
    return [
        bytes([2, 0x80 | toggle | (END_OF_FRAME if number == len(parts) else 0)]) + part
        for number, part in enumerate(parts, 1)
    ]


if __name__ == "__main__":
    Camera(Path(sys.argv[1]), *map(int, sys.argv[2:])).serve()
