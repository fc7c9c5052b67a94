"""Where frames come from: the protocol of an open source, and each engine that opens one."""

import os

# Read when cv2 is imported, and when FFmpeg is first used: what they print is no use to you who run a camera, for it
# says neither which source nor what to do. Set the variables to read it.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
