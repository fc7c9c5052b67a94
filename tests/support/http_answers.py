"""A server that sends each client the same answer, and closes the connection."""

import contextlib
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def serving(parts: list[bytes], content_type: bytes = b"multipart/x-mixed-replace; boundary=x") -> Iterator[str]:
    """Send each client the same parts, and close the connection."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: " + content_type + b"\r\n\r\n" + b"".join(parts))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}/video"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
