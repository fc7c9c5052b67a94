"""``python3 rtsp_recorder.py PORT FILE`` accepts an H.264 stream published by RTSP at any path, as MediaMTX does.

Uses GStreamer with the system's Python, for which Debian has the bindings. FILE gets the bare H.264.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402  # the versions come first

port, file = sys.argv[1:]
Gst.init(None)
server = GstRtspServer.RTSPServer(service=port)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
factory.set_launch(
    f'( rtph264depay name=depay0 ! video/x-h264,stream-format=byte-stream ! filesink buffer-mode=2 location="{file}" )'
)
server.get_mount_points().add_factory("/billiards_video", factory)
if not server.attach(None):
    sys.exit(f"port {port} is taken")
print("serving", flush=True)
GLib.MainLoop().run()
