"""A router in between, certificates and access control, as in docs/mirror.md."""

import subprocess
import sys
from pathlib import Path

import documentation
import pytest
from hosts import Host, Network
from mirrored import Camera, Copy, receive, send

pytestmark = pytest.mark.slow  # as root

ROUTER = """
import json, signal, zenoh
config = zenoh.Config()
config.insert_json5("mode", '"router"')
config.insert_json5("listen/endpoints", '["tcp/0.0.0.0:7447"]')
with zenoh.open(config):
    print("ready", flush=True)
    signal.pause()
"""
NOT_OPENED = 3
CONFIGURATIONS = [block.code for block in documentation.in_language("json5")]
"""For a router, for a sender, for a receiver."""


def test_a_router_carries_frames_between_hosts_that_cannot_reach_each_other(tmp_path: Path) -> None:
    with Network() as network:
        here, there, hall = (network.host(name) for name in ("table", "vision", "hall"))
        for host in (here, there):
            host.isolate()
        with Camera(here) as camera:
            router = hall.start(sys.executable, "-c", ROUTER)
            assert router.stdout is not None
            assert router.stdout.readline() == "ready\n"
            file = tmp_path / "zenoh.json5"
            file.write_text(CONFIGURATIONS[0].replace("router.example", hall.address))
            send(here, "--zenoh-config", file)
            receive(there, "table_1@table", "--codec", "raw", "--zenoh-config", file)
            with Copy(there) as copy:
                for _ in range(3):
                    frame, metadata = copy.next()
                    assert camera.shows(frame, metadata.source_sequence)
                router.kill()
                copy.until_lost()
                again = hall.start(sys.executable, "-c", ROUTER)
                lost_at = camera.writer.sequence
                copy.newer_than(lost_at)
                assert again.poll() is None


def openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def make_authority(folder: Path) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "ca.key")
    openssl(folder, "req", "-x509", *key, "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")


def make_certificate(folder: Path, host: Host) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{host.name}.key")
    openssl(folder, "req", *key, "-out", f"{host.name}.csr", "-subj", f"/CN={host.name}")
    (folder / f"{host.name}.ext").write_text(f"subjectAltName = IP:{host.address}\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", f"{host.name}.ext")
    openssl(folder, "x509", "-req", "-in", f"{host.name}.csr", *signed, "-out", f"{host.name}.pem")


def test_only_the_host_that_has_a_certificate_and_is_allowed_to_gets_frames(tmp_path: Path) -> None:
    with Network() as network:
        here, there, guest, stranger = (network.host(name) for name in ("kitchen", "vision", "guest", "stranger"))
        make_authority(tmp_path)
        for host in (here, there, guest):
            make_certificate(tmp_path, host)
        of_sender, of_receiver = (block.replace("/etc/billiards-shm", str(tmp_path)) for block in CONFIGURATIONS[1:])

        def configuration(host: Host, text: str) -> Path:
            path = tmp_path / f"{host.name}.json5"
            path.write_text(text)
            return path

        # A guest has a certificate for another name, a stranger has none.
        without = "\n".join(line for line in of_receiver.splitlines() if "connect_" not in line)
        files = {
            there: configuration(there, of_receiver),
            guest: configuration(guest, of_receiver.replace("vision", "guest")),
            stranger: configuration(stranger, without),
        }
        send(here, "--zenoh-config", configuration(here, of_sender))
        with Camera(here) as camera:
            endpoint = f"tls/{here.address}:7447"
            kept_out = [
                receive(host, "table_1", "--connect", endpoint, "--open-timeout", "3", "--zenoh-config", files[host])
                for host in (guest, stranger)
            ]
            receive(there, "table_1", "--codec", "raw", "--connect", endpoint, "--zenoh-config", files[there])
            with Copy(there) as copy:
                for _ in range(3):
                    frame, metadata = copy.next()
                    assert camera.shows(frame, metadata.source_sequence)
            assert [process.wait(60) for process in kept_out] == [NOT_OPENED, NOT_OPENED]
            assert (guest.shared_memory(), stranger.shared_memory()) == ([], [])
