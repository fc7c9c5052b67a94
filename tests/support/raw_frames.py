"""Pictures in the formats that cameras deliver."""

import cv2
import numpy as np


def as_yuyv(image: np.ndarray, order: str) -> np.ndarray:
    height, width = image.shape[:2]
    planes = as_planes(image, "I420").reshape(-1)
    u, v = planes[height * width :].reshape(2, height // 2, width // 2)
    raw = np.empty((height, width, 2), np.uint8)
    luma, chroma = (0, 1) if order == "YUYV" else (1, 0)
    raw[..., luma] = planes[: height * width].reshape(height, width)
    raw[:, ::2, chroma] = u.repeat(2, axis=0)
    raw[:, 1::2, chroma] = v.repeat(2, axis=0)
    return raw


def as_planes(image: np.ndarray, fourcc: str) -> np.ndarray:
    i420 = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
    if fourcc in ("I420", "YU12"):
        return i420
    flat = i420.reshape(-1)
    luma, chroma = np.split(flat, [image.shape[0] * image.shape[1]])
    u, v = np.split(chroma, 2)
    parts = {"YV12": (v, u), "NV12": (np.stack([u, v], 1).reshape(-1),), "NV21": (np.stack([v, u], 1).reshape(-1),)}
    return np.concatenate([luma, *parts[fourcc]]).reshape(i420.shape)


def as_raw(image: np.ndarray, fourcc: str) -> np.ndarray:
    """The same picture in a format named as V4L2 or GStreamer names it."""
    if fourcc in ("YUYV", "YUY2"):
        return as_yuyv(image, "YUYV")
    if fourcc == "UYVY":
        return as_yuyv(image, "UYVY")
    if fourcc == "MJPG":
        return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].reshape(1, -1)
    if fourcc == "GREY":
        return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return as_planes(image, fourcc)
