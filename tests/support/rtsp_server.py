"""An RTSP server: GStreamer's, with the system's Python, for which Debian has the bindings.

python3 rtsp_server.py PORT FILE     an H.264 file in MP4 at /table, to each client from its start
python3 rtsp_server.py PORT clock    Motion JPEG at 25 fps with this host's CLOCK_MONOTONIC drawn into each frame
                                     when it is taken; the encoder takes another 30 ms
"""

import sys
import threading
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402  # the versions come first

FPS = 25
BLOCK = (40, 30)  # 8 by 8 of them, one per bit
CLOCK = (
    "( appsrc name=clock is-live=true do-timestamp=true format=time "
    f"caps=video/x-raw,format=I420,width={8 * BLOCK[0]},height={8 * BLOCK[1]},framerate={FPS}/1 "
    "! queue ! identity sleep-time=30000 ! jpegenc ! rtpjpegpay name=pay0 pt=26 )"
)


def drawn(number):
    """A picture of 64 bits, in I420."""
    bits = [[byte >> bit & 1 for bit in range(7, -1, -1)] for byte in number.to_bytes(8, "big")]
    rows = [b"".join(bytes([255 * bit]) * BLOCK[0] for bit in row) * BLOCK[1] for row in bits]
    return b"".join(rows) + b"\x80" * (8 * BLOCK[0] * 8 * BLOCK[1] // 2)


def film(factory, media):
    """Feed a client's pipeline."""
    source = media.get_element().get_by_name("clock")

    def push():
        due = time.monotonic()
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            due += 1 / FPS
            if source.emit("push-buffer", Gst.Buffer.new_wrapped(drawn(time.monotonic_ns()))) != Gst.FlowReturn.OK:
                return

    threading.Thread(target=push, daemon=True).start()
    media.connect("prepared", report_when_taken)


def report_when_taken(media):
    """Make sender reports state when a frame was taken; by default GStreamer's state when it was sent."""
    elements = media.get_element().get_parent().iterate_elements()
    while (found := elements.next())[0] is Gst.IteratorResult.OK:
        if found[1].get_factory().get_name() == "rtpbin":
            found[1].set_property("rtcp-sync-send-time", False)


port, what = sys.argv[1:]
Gst.init(None)
server = GstRtspServer.RTSPServer(service=port)
factory = GstRtspServer.RTSPMediaFactory()
if what == "clock":
    factory.set_launch(CLOCK)
    factory.connect("media-configure", film)
else:
    factory.set_launch(f'( filesrc location="{what}" ! qtdemux ! rtph264pay name=pay0 pt=96 config-interval=-1 )')
server.get_mount_points().add_factory("/table", factory)
if not server.attach(None):
    sys.exit(f"port {port} is taken")
print("serving", flush=True)
GLib.MainLoop().run()
