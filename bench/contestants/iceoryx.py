"""iceoryx2: samples lent and sent, and an event to sleep on.

A numpy view of a payload does not keep its sample alive: a program that keeps the view has to keep the sample.
"""

import ctypes
from multiprocessing.context import SpawnContext
from time import monotonic_ns
from typing import Any

import iceoryx2
import numpy as np

from bench.sizes import Picture, Shape

iceoryx2.set_log_level(iceoryx2.LogLevel.Error)


def share(context: SpawnContext) -> None:
    """Both sides find each other by name."""


class Services:
    """One for the frames, one for events. Keeps the last two frames, as this package does: 34 chunks by default."""

    def __init__(self, where: str, shape: Shape, subscribers: int = 8) -> None:
        self.bytes = int(np.prod(shape))
        self.shape = shape
        self.node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        frames = self.node.service_builder(iceoryx2.ServiceName.new(where))
        payload = iceoryx2.Slice[ctypes.c_uint8]
        self.frames = (
            frames.publish_subscribe(payload)
            .payload_alignment(iceoryx2.Alignment.new(64))
            .subscriber_max_buffer_size(1)
            .subscriber_max_borrowed_samples(2)
            .history_size(0)
            .max_subscribers(subscribers)
            .max_nodes(subscribers + 1)
            .open_or_create()
        )
        self.news = (
            self.node.service_builder(iceoryx2.ServiceName.new(f"{where}/news"))
            .event()
            .max_listeners(subscribers)
            .max_nodes(subscribers + 1)
            .open_or_create()
        )


def array_at(address: int, shape: Shape, nbytes: int) -> Picture:
    """A view of memory that belongs to a sample."""
    memory = (ctypes.c_uint8 * nbytes).from_address(address)
    return np.ndarray(shape, np.uint8, memory)  # type: ignore[arg-type]  # numpy's stubs do not know ctypes arrays


class Publisher:
    def __init__(self, where: str, shape: Shape, shared: None, subscribers: int = 8) -> None:
        self._services = Services(where, shape, subscribers)
        self._publisher = self._services.frames.publisher_builder().initial_max_slice_len(self._services.bytes).create()
        self._notifier = self._services.news.notifier_builder().create()

    def lend(self) -> Any:
        """A sample to fill."""
        return self._publisher.loan_slice_uninit(self._services.bytes)

    def write(self, picture: Picture) -> None:
        self.publish(picture)

    def publish(self, picture: Picture) -> int:
        sample = self.lend()
        ctypes.memmove(sample.payload_ptr, picture.ctypes.data, self._services.bytes)
        before = monotonic_ns()
        self.send(sample)
        self._notifier.notify()
        return before

    def send(self, sample: Any) -> None:
        """Into every subscriber's queue; wakes no process."""
        sample.assume_init().send()

    def close(self) -> None:
        del self._publisher, self._notifier, self._services


class Subscriber:
    def __init__(self, where: str, shape: Shape, shared: None, subscribers: int = 8) -> None:
        self._services = Services(where, shape, subscribers)
        self._subscriber = self._services.frames.subscriber_builder().create()
        self._listener = self._services.news.listener_builder().create()
        self._sample: Any = None

    def poll(self) -> Picture | None:
        """The newest frame as an array, valid until the next call; None if there is no new one."""
        sample = self._subscriber.receive()
        if sample is None:
            return None
        self._sample = sample
        return array_at(sample.payload_ptr, self._services.shape, self._services.bytes)

    def receive(self, timeout: float) -> tuple[int, Picture] | None:
        picture = self.poll()
        if picture is None and self._listener.timed_wait(iceoryx2.Duration.from_nanos(int(timeout * 1e9))):
            picture = self.poll()
        return None if picture is None else (monotonic_ns(), picture)

    def close(self) -> None:
        self._sample = None
        del self._subscriber, self._listener, self._services
