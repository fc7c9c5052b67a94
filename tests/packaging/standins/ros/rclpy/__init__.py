"""Stands in for ROS 2's rclpy: messages are serialized as ROS does, into a file named after the topic."""

from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_typestore

STORE = get_typestore(Stores.ROS2_HUMBLE)
_running = False


def init() -> None:
    """Has to be called first."""
    global _running
    assert not _running
    _running = True


def shutdown() -> None:
    """The end."""
    global _running
    assert _running
    _running = False


class Publisher:
    """Keeps the last message."""

    def __init__(self, message_type: type, topic: str) -> None:
        self._type = message_type
        self._file = Path(f"{topic}.cdr")

    def publish(self, message: Any) -> None:
        """Serialize it."""
        assert _running
        assert isinstance(message, self._type), f"{self._type} is expected, not {type(message)}"
        typed, name = message.as_ros(STORE)
        self._file.write_bytes(STORE.serialize_cdr(typed, name))


class Node:
    """Makes publishers."""

    def __init__(self, name: str) -> None:
        assert name.isidentifier()

    def create_publisher(self, message_type: type, topic: str, qos_profile: object) -> Publisher:
        """Make a publisher for one topic."""
        assert qos_profile is not None
        return Publisher(message_type, topic)

    def destroy_node(self) -> None:
        """Nothing to do."""


def create_node(node_name: str) -> Node:
    """After `init`."""
    assert _running
    return Node(node_name)
