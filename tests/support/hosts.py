"""Computers in one network, as kernel namespaces: for tests that need more than one machine. Needs root.

Each host has processes, a network interface, a /dev/shm, a /run, a name, a machine id and, if requested, its own
monotonic clock. All hosts are on one switch. The kernel removes everything when the test's process ends, however it
ends.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

_DIES_WITH_ITS_PARENT = ["setpriv", "--pdeathsig", "KILL", "--"]
_INTERFACE = "eth0"
_RUNTIME = "/run/user"
_WIRE = Path(__file__).parent / "lossy_wire.py"
_PREPARE = f"""
mount --make-rprivate /
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs tmpfs /run
tr -d - </proc/sys/kernel/random/uuid >/run/machine-id
[ ! -e /etc/machine-id ] || mount --bind /run/machine-id /etc/machine-id
mkdir -m 700 {_RUNTIME}
echo "$1" >/proc/sys/kernel/hostname
ip link set lo up
echo ready
read -r _
"""


class _Namespaces:
    """A process that holds namespaces; when it ends, every process in them ends with it."""

    def __init__(self, name: str, *options: str) -> None:
        self.name = name
        self._options = options
        self._holder = subprocess.Popen(
            [
                *_DIES_WITH_ITS_PARENT,
                *("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *(*options, "sh", "-ec", _PREPARE, "sh", name),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n", f"no namespaces for {name}"
        self.pid = _child_of(self._holder.pid)

    def command(self, *arguments: object) -> list[str]:
        """The command line that runs a command in these namespaces."""
        enter = ["nsenter", "-t", str(self.pid), "-n", "-m", "-u", "-p", *(["-T"] if self._options else []), "--"]
        return [*_DIES_WITH_ITS_PARENT, *enter, *_DIES_WITH_ITS_PARENT, *map(str, arguments)]

    def run(self, *arguments: object, **options: Any) -> str:
        """The output of a command, which has to succeed."""
        done = subprocess.run(
            self.command(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options
        )
        assert done.returncode == 0, f"{self.name}: {' '.join(map(str, arguments))}: {done.stderr or done.stdout}"
        return str(done.stdout)

    def end(self) -> None:
        """Kill every process in them."""
        self._holder.kill()
        self._holder.communicate()


def _child_of(pid: int) -> int:
    """The child of another process, once it has started one. Raises an OSError if the other has ended."""
    while not (children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            raise ProcessLookupError(f"process {pid} has ended")
        time.sleep(0.001)
    return int(children[0])


class Process(subprocess.Popen[str]):
    """A process on a host: signals go to it, not to the command that starts it there and waits for it."""

    @property
    def inner(self) -> int:
        """Its process id, as the test sees it."""
        return _child_of(self.pid)

    def send_signal(self, sig: int) -> None:
        if sig == signal.SIGCONT:  # the command stops and goes on with the process
            super().send_signal(sig)
        if self.poll() is None:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended in the meantime
                os.kill(self.inner, sig)


class Host(_Namespaces):
    """One computer. Get it from a `Network`."""

    def __init__(self, name: str, address: str, switch: _Namespaces, port: str, clock_offset_s: int) -> None:
        super().__init__(name, *(["--time", "--monotonic", str(clock_offset_s)] if clock_offset_s else []))
        self.address = address
        self._switch = switch
        self._port = port
        self._started: list[Process] = []
        switch.run("ip", "link", "add", port, "type", "veth", "peer", "name", f"{port}h")
        subprocess.run(
            ["nsenter", "-t", str(switch.pid), "-n", "ip", "link", "set", f"{port}h", "netns", str(self.pid)],
            check=True,
        )
        switch.run("ip", "link", "set", port, "master", "switch", "up")
        self.run("ip", "link", "set", f"{port}h", "name", _INTERFACE)
        self.run("ip", "address", "add", f"{address}/24", "dev", _INTERFACE)
        self.run("ip", "link", "set", _INTERFACE, "up")

    def start(self, *arguments: object, **options: Any) -> Process:
        """Start a command there, with its output piped."""
        defaults: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
        }
        environment = {**options.pop("env", os.environ), "XDG_RUNTIME_DIR": _RUNTIME}
        self._started.append(Process(self.command(*arguments), env=environment, **{**defaults, **options}))
        return self._started[-1]

    def end(self) -> None:
        super().end()
        for process in self._started:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)  # the command, which may be stopped
            out, errors = process.communicate()
            if "PYTEST_CURRENT_TEST" in os.environ:  # which shows it if the test fails
                print(f"{self.name}: {process.args!r} ended with {process.returncode}\n{out}{errors}")

    def limit(self, megabits_a_second: float) -> None:
        """Limit the rates out and in; queues hold 50 ms at most, as in a cheap switch."""
        shape = ("root", "tbf", "rate", f"{megabits_a_second}mbit", "burst", "32kb", "latency", "50ms")
        self.run("tc", "qdisc", "replace", "dev", _INTERFACE, *shape)
        self._switch.run("tc", "qdisc", "replace", "dev", self._port, *shape)

    def impair(self, *, delay_ms: float, loss_percent: float) -> None:
        """Delay each packet, out and in, and lose some of them at random. May be called once."""
        one, other = f"{self._port}w", f"{self._port}s"
        self._switch.run("ip", "link", "add", one, "type", "veth", "peer", "name", other)
        self._switch.run("ip", "link", "set", self._port, "nomaster", "promisc", "on")
        self._switch.run("ip", "link", "set", one, "promisc", "on", "up")
        self._switch.run("ip", "link", "set", other, "master", "switch", "up")
        wire = [sys.executable, _WIRE, self._port, one, delay_ms, loss_percent]
        process = Process(self._switch.command(*wire), stdout=subprocess.PIPE, text=True)
        self._started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def unplug(self) -> None:
        """Pull the cable: the host sees that its interface has no carrier."""
        self._switch.run("ip", "link", "set", self._port, "down")

    def plug(self) -> None:
        """Put the cable back, or repair the path."""
        self._switch.run("ip", "link", "set", self._port, "up")
        opened = self._switch.command("bridge", "link", "set", "dev", self._port, "state", "3")
        # The kernel refuses it for a moment, until it has noticed that the interface is up.
        until = time.monotonic() + 100
        while subprocess.run(opened, capture_output=True, check=False).returncode != 0:
            assert time.monotonic() < until, "the port was not opened"
            time.sleep(0.01)

    def cut(self) -> None:
        """Break the path further away: the host does not notice, and no packet gets in or out."""
        self._switch.run("bridge", "link", "set", "dev", self._port, "state", "0")

    def isolate(self) -> None:
        """Let it reach only hosts that are not isolated, as in another network behind a router."""
        self._switch.run("bridge", "link", "set", "dev", self._port, "isolated", "on")

    def shared_memory(self) -> list[str]:
        """The files in its /dev/shm."""
        return sorted(path.name for path in Path(f"/proc/{self.pid}/root/dev/shm").iterdir())


Made = TypeVar("Made", bound=_Namespaces)


class Network:
    """A switch, and the hosts on it, until the end of the block."""

    def __init__(self) -> None:
        self._everything: list[_Namespaces] = []

    def __enter__(self) -> Self:
        self._switch = self._keep(_Namespaces("switch"))
        self._switch.run("ip", "link", "add", "switch", "type", "bridge", "mcast_snooping", "0")
        self._switch.run("ip", "link", "set", "switch", "up")
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for one in reversed(self._everything):
            one.end()

    def _keep(self, made: Made) -> Made:
        self._everything.append(made)
        return made

    def host(self, name: str, *, clock_offset_s: int = 0) -> Host:
        """A new computer on the switch."""
        number = len(self._everything)
        return self._keep(Host(name, f"10.0.0.{number}", self._switch, f"port{number}", clock_offset_s))
