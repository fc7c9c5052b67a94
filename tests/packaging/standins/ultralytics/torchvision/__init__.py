"""Stands in for torchvision, of which Ultralytics uses `ops.nms`: wheels from PyPI cannot be loaded without CUDA."""

from torchvision import ops

__all__ = ["ops"]
