"""The configurations of docs/proxies.md, run by nginx and Caddy in front of a server."""

import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import command_line
import documentation
import pytest
from segments_under_test import picture, wait_until
from serving import Address, Filming, Mjpeg, ServeProcess
from tools import needs
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from billiards_shm import SharedMemoryFrameWriter
from billiards_shm.sources.demo.table import read_counter

pytestmark = pytest.mark.slow

LARGE = (1280, 720)

SITES = {
    "nginx": documentation.in_language("nginx")[0].code,
    "caddy": documentation.in_language("caddy")[0].code,
}


@pytest.fixture(autouse=True)
def nothing_runs_on() -> Iterator[None]:
    yield
    command_line.end_started()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with certificate and key."""
    needs("openssl")
    file = tmp_path_factory.mktemp("certificate") / "video.example.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=video.example", "-addext", "subjectAltName=IP:127.0.0.1,DNS:video.example",
         "-keyout", file, "-out", file.with_suffix(".crt")],
        check=True, capture_output=True,
    )  # fmt: skip
    file.write_text(file.read_text() + file.with_suffix(".crt").read_text())
    return file


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def nginx(folder: Path, site: str) -> list[str | Path]:
    file = folder / "nginx.conf"
    temporary = "".join(
        f"{kind}_temp_path {folder / kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file.write_text(f"daemon off;\npid {folder}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}{site}}}\n")
    return ["nginx", "-c", file, "-e", folder / "errors"]


def caddy(folder: Path, site: str) -> list[str | Path]:
    file = folder / "Caddyfile"
    file.write_text(f"{{\nadmin off\nauto_https disable_redirects\nskip_install_trust\n}}\n{site}")
    return ["caddy", "run", "--config", file, "--adapter", "caddyfile"]


PROXIES = {"nginx": nginx, "caddy": caddy}


@contextmanager
def in_front_of(server: Address, proxy: str, folder: Path, certificate: Path, site: str = "") -> Iterator[Address]:
    """Run the page's configuration, with ports and files of this machine."""
    needs(proxy)
    port = free_port()
    site = site or SITES[proxy]
    site = site.replace("/etc/ssl/video.example.pem", str(certificate))
    site = site.replace("/etc/ssl/video.example.key", str(certificate))
    site = site.replace("listen 443 ", f"listen 127.0.0.1:{port} ")
    site = site.replace("video.example {", f"https://video.example:{port}, https://127.0.0.1:{port} {{")
    site = site.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    folder.mkdir()
    with (folder / "log").open("w") as log:
        environment = os.environ | {"XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
        process = subprocess.Popen(PROXIES[proxy](folder, site), stdout=log, stderr=log, cwd=folder, env=environment)
    tls = ssl.create_default_context(cafile=certificate)
    address = Address(port, tls=tls)
    try:
        wait_until(lambda: process.poll() is not None or answers(address), f"an answer of {proxy}")
        assert process.poll() is None, (folder / "log").read_text()
        yield address
    finally:
        process.terminate()
        process.wait(30)


def answers(address: Address) -> bool:
    try:
        return address.get("/video/healthz").status == 200
    except OSError:
        return False


@pytest.fixture(params=PROXIES)
def proxy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_everything_works_below_a_path_and_with_tls(
    proxy: str, certificate: Path, segment_name: str, tmp_path: Path
) -> None:
    with (
        SharedMemoryFrameWriter(segment_name, (48, 64, 3)) as writer,
        ServeProcess(segment_name, "--allowed-hosts", "video.example") as running,
        in_front_of(running.address, proxy, tmp_path / proxy, certificate) as address,
    ):
        writer.write_frame(picture(1, (48, 64, 3)))
        page = address.get("/video/", Host="video.example")
        assert (page.status, b"page.js" in page.body) == (200, True)
        assert address.get("/video/static/page.js").status == 200
        assert address.get("/video").status in (301, 302), "to the page"
        assert address.get("/video/", Host="another.example").status in (200, 421)

        snapshot = address.get(f"/video/snapshot/{segment_name}.jpg")
        assert snapshot.image.shape == (48, 64, 3)
        tag = snapshot.headers["etag"]
        assert address.get(f"/video/snapshot/{segment_name}.jpg", If_None_Match=tag).status == 304
        assert address.request("HEAD", f"/video/stream/{segment_name}.mjpg").status == 200

        with address.stream(f"/video/stream/{segment_name}.mjpg") as stream:
            for number in range(1, 6):  # each arrives although nothing follows it: the proxy holds nothing back
                assert stream.part().headers["x-frame-sequence"] == str(number)
                writer.write_frame(picture(number + 1, (48, 64, 3)))

        url = address.url(f"/video/ws/{segment_name}", "ws")
        with connect(url, ssl=address.tls, origin=f"https://127.0.0.1:{address.port}") as websocket:
            assert websocket.recv(20)
        with (
            pytest.raises(InvalidStatus, match="403"),
            connect(url, ssl=address.tls, origin="https://another.example"),
        ):
            pass
        wait_until(lambda: not running.address.get("/api/clients").json, "the end of every viewer")


def test_the_cookie_of_the_login_page_is_for_tls_and_below_the_path(
    proxy: str, certificate: Path, segment_name: str, tmp_path: Path
) -> None:
    with (
        ServeProcess(segment_name, BILLIARDS_SHM__SERVE__TOKEN="12345") as running,
        in_front_of(running.address, proxy, tmp_path / proxy, certificate) as address,
    ):
        assert address.get("/video/", Host="video.example").headers["location"] == "login", "for any host, with a token"
        answer = address.request(
            "POST", "/video/login", b"token=12345", Content_Type="application/x-www-form-urlencoded"
        )
        assert (answer.status, answer.headers["location"]) == (303, "./")
        cookie, *attributes = answer.headers["set-cookie"].split("; ")
        assert {"Secure", "HttpOnly"} <= set(attributes)
        assert [one for one in attributes if one.startswith(("Path=", "Domain="))] in ([], ["Path=/video"])
        assert address.get("/video/api/segments").status == 401
        assert address.get("/video/api/segments", Cookie=cookie).status == 200


def test_the_stream_of_a_slow_client_of_nginx_stays_new(certificate: Path, segment_name: str, tmp_path: Path) -> None:
    site = SITES["nginx"]
    waiting = {}
    with Filming(segment_name, LARGE, fps=30) as filming, ServeProcess(segment_name) as running:
        for sndbuf, variant in (("", site.replace(" sndbuf=64k", "")), ("sndbuf=64k", site)):
            with (
                in_front_of(running.address, "nginx", tmp_path / f"nginx{sndbuf}", certificate, variant) as address,
                Mjpeg(address, f"/video/stream/{segment_name}.mjpg?quality=95", receive_buffer=65536) as slow,
            ):
                for _ in range(20):
                    time.sleep(0.25)
                    slow.part()
                filming.pause()
                waiting[sndbuf] = 0
                while True:
                    part = slow.part()
                    if read_counter(part.image) == filming.published:
                        break
                    waiting[sndbuf] += len(part.body)
                filming.paused = False
    print({key: f"{size / 1e6:.2f} MB" for key, size in waiting.items()}, "were older than the newest frame")
    assert waiting["sndbuf=64k"] * 3 < waiting[""]
