"""The metrics of one application: those of its segments, and those of its own clients."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from billiards_shm.monitor.health import REFRESH_INTERVAL_S, HealthMonitor, SegmentHealth
from billiards_shm.monitor.metrics import SegmentCollector
from billiards_shm.serve.clients import Clients

__all__ = ["OPENMETRICS", "ServerMetrics"]

_LABELS: Final = ("kind", "name")
_TOTALS: Final = {
    "frames": ("client_frames", "Frames sent to clients"),
    "skipped": ("client_frames_skipped", "Frames that clients were not sent: they asked for fewer, or were too slow"),
    "bytes": ("client_bytes", "Bytes of pictures and events sent to clients"),
}
OPENMETRICS: Final = "application/openmetrics-text"
# By whether OpenMetrics is requested.
_FORMATS: Final = {True: f"{OPENMETRICS}; version=1.0.0", False: "text/plain; version=0.0.4"}


class ServerMetrics:
    """Prometheus metrics of one application.

    Parameters
    ----------
    monitor : HealthMonitor
    clients : Clients
    """

    def __init__(self, monitor: HealthMonitor, clients: Clients) -> None:
        self._monitor = monitor
        self._registry = CollectorRegistry()
        self._texts = {open_: _SharedText(partial(self._render, accept)) for open_, accept in _FORMATS.items()}
        self._registry.register(SegmentCollector(monitor.infos))
        self._registry.register(_ClientCollector(monitor, clients))
        self._encode = Histogram(
            "billiards_shm_encode_seconds",
            "Time to encode one frame as a JPEG, including scaling",
            ["name"],
            buckets=(0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.033, 0.05, 0.1, 0.25),
            registry=self._registry,
        )

    def encoded(self, name: str, seconds: float) -> None:
        """Record how long an encoding took. Any thread may call this."""
        self._encode.labels(name).observe(seconds)

    def forget(self, name: str) -> None:
        """Drop what was recorded for a segment. Any thread may call this."""
        with contextlib.suppress(KeyError):  # raised by older versions
            self._encode.remove(name)

    async def text(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics in the format that the `Accept` header asks for, and their content type."""
        # Every client reads one of these two formats, even if it asks for other versions.
        return await self._texts[OPENMETRICS in accept].get()

    def _render(self, accept: str) -> tuple[bytes, str]:
        for name in self._monitor.health():
            self._encode.labels(name)  # segments that never had a viewer show zeros
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _SharedText:
    """A text made in a thread, at most once per interval, for all requests in that time."""

    def __init__(self, render: Callable[[], tuple[bytes, str]]) -> None:
        self._render = render
        self._rendered_at = -math.inf
        self._rendering: asyncio.Task[tuple[bytes, str]] | None = None

    async def get(self) -> tuple[bytes, str]:
        if self._rendering is None or time.monotonic() - self._rendered_at > REFRESH_INTERVAL_S:
            self._rendered_at = math.inf  # while it lasts
            self._rendering = asyncio.create_task(self._refresh())
        # If a client leaves, the others still get it.
        return await asyncio.shield(self._rendering)

    async def _refresh(self) -> tuple[bytes, str]:
        try:
            return await asyncio.to_thread(self._render)
        finally:
            self._rendered_at = time.monotonic()


class _ClientCollector(Collector):
    def __init__(self, monitor: HealthMonitor, clients: Clients) -> None:
        self._monitor = monitor
        self._clients = clients

    def describe(self) -> Iterable[Metric]:
        return self._families({})

    def collect(self) -> Iterable[Metric]:
        return self._families(self._monitor.health())

    def _families(self, segments: Mapping[str, SegmentHealth]) -> list[Metric]:
        healthy = GaugeMetricFamily("billiards_shm_healthy", "1 if /health/NAME answers 200", labels=["name"])
        for name, health in segments.items():
            healthy.add_metric([name], float(health.healthy))
        connected = GaugeMetricFamily("billiards_shm_clients", "Clients connected now", labels=_LABELS)
        totals = self._clients.totals()
        keys = {(kind, name) for _, kind, name in totals} | {("events", "")}
        keys |= {(kind, name) for kind in ("mjpeg", "websocket") for name in segments}
        for key in sorted(keys):
            connected.add_metric(key, sum((client.kind, client.name) == key for client in self._clients))
        families: list[Metric] = [healthy, connected]
        for total, (metric, text) in _TOTALS.items():
            family = CounterMetricFamily(f"billiards_shm_{metric}", text, labels=_LABELS)
            for key in sorted(keys):
                family.add_metric(key, totals[(total, *key)])
            families.append(family)
        return families
