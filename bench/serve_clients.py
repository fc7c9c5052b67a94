"""The clients of `bench/serve.py`, each a separate process that prints one JSON line."""

import argparse
import contextlib
import http.client
import itertools
import json
import os
import re
import selectors
import socket
import threading
import time
from typing import Final

import numpy as np

from billiards_shm.sources.demo.table import read_counter

PART: Final = re.compile(rb"Content-Length: (\d+)\r\nX-Frame-Sequence: (\d+)\r\n[^\r]*\r\n\r\n")
KEPT_EVERY: Final = 30


def run_mjpeg_clients(port: int, path: str, count: int, seconds: float) -> None:
    """Read `count` streams; note when each part is complete, and read the number from some of the pictures."""
    selector = selectors.DefaultSelector()
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, bytearray())
    seen: list[tuple[int, int]] = []
    kept: list[tuple[int, bytes]] = []
    size = 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for key, _ in selector.select(0.1):
            assert isinstance(key.fileobj, socket.socket)
            data = key.fileobj.recv(1 << 20)
            size += len(data)
            key.data.extend(data)
            while (found := PART.search(key.data)) and len(key.data) >= found.end() + int(found[1]):
                number, end = int(found[2]), found.end() + int(found[1])
                seen.append((number, time.monotonic_ns()))
                if len(seen) % KEPT_EVERY == 0:
                    kept.append((number, bytes(key.data[found.end() : end])))
                del key.data[:end]
    print(json.dumps({"seen": seen, "bytes": size, "verified": verified(kept)}), flush=True)


def run_websocket_client(port: int, path: str, seconds: float) -> None:
    """Read one WebSocket, answering each picture."""
    from websockets.sync.client import connect

    seen: list[tuple[int, int]] = []
    kept: list[tuple[int, bytes]] = []
    size = 0
    deadline = time.monotonic() + seconds
    with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, compression=None) as connection:
        while time.monotonic() < deadline:
            message = connection.recv(10)
            assert isinstance(message, bytes)
            number = int(np.frombuffer(message, ">f8", 1)[0])
            seen.append((number, time.monotonic_ns()))
            connection.send("1")
            size += len(message)
            if len(seen) % KEPT_EVERY == 0:
                kept.append((number, message[32:]))
    print(json.dumps({"seen": seen, "bytes": size, "verified": verified(kept)}), flush=True)


def scrape(port: int, rate: float, seconds: float) -> None:
    """Fetch the metrics, `rate` times a second or as often as eight connections allow."""
    count, due = 0, itertools.count()
    begun = time.monotonic()

    def fetch() -> None:
        nonlocal count
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while (at := begun + next(due) / rate) < begun + seconds and time.monotonic() < begun + seconds:
            time.sleep(max(0.0, at - time.monotonic()))
            connection.request("GET", "/metrics")
            if connection.getresponse().read().startswith(b"# HELP"):
                count += 1

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"rate": count / seconds}), flush=True)


def verified(kept: list[tuple[int, bytes]]) -> int:
    """How many pictures show the number they arrived with; a wrong one ends the measurement."""
    import cv2

    for number, jpeg in kept:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE)
        if image is None or read_counter(image) != number:
            raise RuntimeError(f"the picture that arrived as {number} shows another number")
    return len(kept)


def send_bytes(port: int, size: int, count: int, fps: float, seconds: float) -> None:
    """The cost of the bytes alone: send `size` of them to each of `count` connections, `fps` times a second."""
    part = bytes(size)
    with socket.create_server(("127.0.0.1", port), backlog=count) as listener:
        print("listening", flush=True)
        connections = [listener.accept()[0] for _ in range(count)]
        begun, due = os.times(), time.monotonic()
        deadline = due + seconds
        while due < deadline:
            for connection in connections:
                connection.sendall(part)
            due += 1 / fps
            time.sleep(max(0.0, due - time.monotonic()))
        ended = os.times()
    print(json.dumps({"cpu": (ended.user + ended.system - begun.user - begun.system) / seconds}), flush=True)


def drain(port: int, count: int) -> None:
    """Read from `count` connections until they end."""
    selector = selectors.DefaultSelector()
    for _ in range(count):
        selector.register(socket.create_connection(("127.0.0.1", port)), selectors.EVENT_READ)
    while selector.get_map():
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            with contextlib.suppress(ConnectionError):
                if key.fileobj.recv(1 << 20):
                    continue
            selector.unregister(key.fileobj)


def main() -> None:
    """Run one of these clients."""
    parser = argparse.ArgumentParser(description="A client of `bench/serve.py`.")
    parser.add_argument("--client", nargs=5, metavar=("KIND", "PORT", "PATH", "COUNT", "SECONDS"))
    parser.add_argument("--scrape", nargs=3, metavar=("PORT", "RATE", "SECONDS"))
    parser.add_argument("--send", nargs=5, metavar=("PORT", "SIZE", "COUNT", "FPS", "SECONDS"))
    parser.add_argument("--drain", nargs=2, metavar=("PORT", "COUNT"))
    options = parser.parse_args()
    if options.client:
        kind, port, path, count, seconds = options.client
        if kind == "mjpeg":
            run_mjpeg_clients(int(port), path, int(count), float(seconds))
        else:
            run_websocket_client(int(port), path, float(seconds))
    elif options.scrape:
        port, rate, seconds = options.scrape
        scrape(int(port), float(rate), float(seconds))
    elif options.send:
        port, size, count, fps, seconds = options.send
        send_bytes(int(port), int(size), int(count), float(fps), float(seconds))
    elif options.drain:
        drain(*map(int, options.drain))


if __name__ == "__main__":
    main()
