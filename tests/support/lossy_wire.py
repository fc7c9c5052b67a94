"""A wire between two interfaces that delays each packet and loses some. Many kernels have no `netem` for that.

    python lossy_wire.py ONE OTHER DELAY_MS LOSS_PERCENT

Packets go through packet sockets (packet(7)) with the header that says what was left to the interface: checksums.
"""

import random
import selectors
import socket
import sys
import time
from collections import deque

_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_ETH_P_ALL = 3
_LONGEST = 1 << 17


def _end_of_wire(interface: str) -> socket.socket:
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    end.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    end.bind((interface, 0))
    return end


def run(one: str, other: str, delay_s: float, loss: float) -> None:
    """Carry packets both ways until the process ends. Says when it begins."""
    ends = [_end_of_wire(one), _end_of_wire(other)]
    ready = selectors.DefaultSelector()
    for end, opposite in zip(ends, reversed(ends), strict=True):
        ready.register(end, selectors.EVENT_READ, opposite)
    print("ready", flush=True)
    chance = random.Random(8)
    under_way: deque[tuple[float, socket.socket, bytes]] = deque()
    while True:
        timeout = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        for key, _ in ready.select(timeout):
            assert isinstance(key.fileobj, socket.socket)
            packet, (_, _, kind, *_) = key.fileobj.recvfrom(_LONGEST)
            if kind != socket.PACKET_OUTGOING and chance.random() >= loss:  # not what was sent from here
                under_way.append((time.monotonic() + delay_s, key.data, packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, end, packet = under_way.popleft()
            end.send(packet)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], float(sys.argv[3]) / 1000, float(sys.argv[4]) / 100)
