"""``python3 rtsp_server.py PORT FILE`` serves an H.264 file in MP4 by RTSP at /table, to each client from its start.

GStreamer's, with the system's Python, for which Debian has the bindings.
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
factory.set_launch(f'( filesrc location="{file}" ! qtdemux ! rtph264pay name=pay0 pt=96 config-interval=-1 )')
server.get_mount_points().add_factory("/table", factory)
if not server.attach(None):
    sys.exit(f"port {port} is taken")
print("serving", flush=True)
GLib.MainLoop().run()
