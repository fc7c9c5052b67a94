"""Where frames come from: the protocol of an open source, and each engine that opens one."""

import os

# Read when cv2 is imported, and when FFmpeg is first used. Their output does not help to run a camera: it names
# neither the source nor what to do. Set the variables to see it.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
