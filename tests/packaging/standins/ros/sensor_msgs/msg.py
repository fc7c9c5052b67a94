"""The message Image, with the checks that its setters make in ROS."""

import array
from typing import Any

import numpy as np


class Time:
    """builtin_interfaces/msg/Time."""

    __slots__ = ("nanosec", "sec")

    def __init__(self) -> None:
        self.sec = self.nanosec = 0


class Header:
    """std_msgs/msg/Header."""

    __slots__ = ("frame_id", "stamp")

    def __init__(self) -> None:
        self.stamp = Time()
        self.frame_id = ""


class Image:
    """sensor_msgs/msg/Image. A field with another name is an error."""

    __slots__ = ("data", "encoding", "header", "height", "is_bigendian", "step", "width")

    def __init__(self) -> None:
        self.header = Header()
        self.height = self.width = self.step = self.is_bigendian = 0
        self.encoding = ""
        self.data = array.array("B")

    def __setattr__(self, name: str, value: Any) -> None:
        expected = {"header": Header, "encoding": str, "data": array.array}.get(name, int)
        assert isinstance(value, expected), f"{name}: {expected} is expected, not {type(value)}"
        assert name != "data" or value.typecode == "B"
        super().__setattr__(name, value)

    def as_ros(self, store: Any) -> tuple[Any, str]:
        """The same message in ROS types, and its name."""
        name = "sensor_msgs/msg/Image"
        stamp = store.types["builtin_interfaces/msg/Time"](sec=self.header.stamp.sec, nanosec=self.header.stamp.nanosec)
        header = store.types["std_msgs/msg/Header"](stamp=stamp, frame_id=self.header.frame_id)
        fields = {field: getattr(self, field) for field in self.__slots__}
        return store.types[name](**fields | {"header": header, "data": np.asarray(self.data)}), name
