"""The test hosts are as separate as computers; otherwise the network between them would not be tested."""

import sys

import psutil
import pytest
from hosts import Network
from segments_under_test import wait_until

pytestmark = pytest.mark.slow  # as root

OFFSET_S = 100_000
CLOCK = "import time; print(time.monotonic())"
SERVE = "import socket; s = socket.create_server(('', 7)); print('ready', flush=True); s.accept()[0].recv(1)"
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 7), timeout=float(sys.argv[2]))"


def test_hosts_share_the_switch_and_nothing_else() -> None:
    with Network() as network:
        near, far = network.host("near"), network.host("far", clock_offset_s=OFFSET_S)
        assert (near.run("hostname"), far.run("hostname")) == ("near\n", "far\n")

        near.run("sh", "-c", "echo frame >/dev/shm/segment")
        assert (near.shared_memory(), far.shared_memory()) == (["segment"], [])

        here, there = (float(host.run(sys.executable, "-c", CLOCK)) for host in (near, far))
        assert OFFSET_S <= there - here < OFFSET_S + 60

        listening = near.start(sys.executable, "-c", SERVE)
        assert listening.stdout is not None
        assert listening.stdout.readline() == "ready\n"
        for part, mend in ((near.cut, near.plug), (near.unplug, near.plug)):
            part()
            with pytest.raises(AssertionError, match=r"TimeoutError|No route|unreachable"):
                far.run(sys.executable, "-c", CONNECT, near.address, 0.3)
            mend()
        far.run(sys.executable, "-c", CONNECT, near.address, 60)
        assert listening.wait(10) == 0


def test_the_end_of_the_network_ends_every_process_on_its_hosts() -> None:
    with Network() as network:
        started = network.host("near").start("sleep", "1000")
        holder = started.inner
    assert started.wait(10) != 0
    wait_until(lambda: not psutil.pid_exists(holder), "the end of the process")
