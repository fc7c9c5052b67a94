"""A stranger answers for a segment of another host: the copy stays the origin's, in bounded memory."""

import sys

import psutil
import pytest
from hosts import Network
from mirrored import Camera, Copy, receive, send

from billiards_shm.mirror.wire import LARGEST_ANSWER_BYTES

pytestmark = pytest.mark.slow  # as root

STRANGER = """
import sys, threading, time
import numpy as np, zenoh
from billiards_shm.mirror.wire import *

keys = []
session = zenoh.open(zenoh.Config())
offers = session.liveliness().declare_subscriber(
    "billiards_shm/**", lambda sample: keys.append(sample.key_expr), history=True
)
while not keys:
    time.sleep(0.01)

def is_silent(query, request):
    time.sleep(1e6)

def has_the_newest_of_all_frames(query, request):
    now, pixels = time.monotonic_ns(), bytes(48 * 64 * 3)
    header = FrameHeader(2**64 - 1, now, now, now, None, (48, 64, 3), np.dtype("u1"), "BGR24", True)
    answer = Answer(request.nonce, now, now, generation=request.generation, sequence=2**64 - 1)
    query.reply(keys[0], pack_frames([SentFrame(header, pixels)]), attachment=answer.pack())

def sends_without_end(query, request):
    while True:
        query.reply(keys[0], bytes(1 << 23))

def sends_more_than_a_frame_can_be(query, request):
    query.reply(keys[0], bytes(int(sys.argv[2]) + 1))

def answer(query):
    print("asked", flush=True)
    with query:
        globals()[sys.argv[1]](query, Request.unpack(query.payload.to_bytes()))

# "complete": it has everything under this key.
queryable = session.declare_queryable(
    keys[0], lambda query: threading.Thread(target=answer, args=[query]).start(), complete=True
)
time.sleep(1e6)
"""
DEEDS = ("is_silent", "has_the_newest_of_all_frames", "sends_without_end", "sends_more_than_a_frame_can_be")


@pytest.mark.parametrize("deed", DEEDS)
def test_a_stranger_that_answers_for_the_origin(deed: str) -> None:
    with Network() as network:
        here, there, elsewhere = (network.host(name) for name in ("table", "vision", "elsewhere"))
        with Camera(here) as camera:
            send(here)
            receiver = receive(there, "table_1@table", "--codec", "raw")
            with Copy(there) as copy:
                copy.next()
                process = psutil.Process(receiver.inner)
                before = most = process.memory_info().rss
                stranger = elsewhere.start(sys.executable, "-c", STRANGER, deed, LARGEST_ANSWER_BYTES)
                assert stranger.stdout is not None
                assert stranger.stdout.readline() == "asked\n"
                for _ in range(40):
                    frame, metadata = copy.next()
                    assert camera.shows(frame, metadata.source_sequence)
                    most = max(most, process.memory_info().rss)
            receiver.terminate()
            said = receiver.communicate()[1]
    print(f"memory: {before / 1e6:.0f} MB before, at most {most / 1e6:.0f} MB\n{said}")
    assert most < before + 2.2 * LARGEST_ANSWER_BYTES  # one being assembled, one finished
    assert f"{LARGEST_ANSWER_BYTES + 1} bytes" not in said, "what is larger is not put together"
