"""Segments as Prometheus sees them; for the server and for the capture process."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from billiards_shm.errors import BilliardsShmError
from billiards_shm.segments import SegmentInfo, inspect_segment
from billiards_shm.status import SegmentStatus

__all__ = ["SegmentCollector", "metrics_server"]

_log = logging.getLogger(__name__)

_LABELS: Final = ("name",)
_COUNTERS: Final = {
    "frames_captured": ("captured", "Frames that the source gave"),
    "frames_published": ("published", "Frames published into shared memory"),
    "frames_dropped": ("dropped", "Frames not published, for want of shared memory"),
    "reconnects": ("reconnects", "Times that a lost source came back"),
    "stalls": ("stalls", "Times that the source brought nothing for too long"),
    "loops": ("loops", "Times that a recording began again"),
}
# Upper bounds of the segment's own buckets, 2**10 ns (a microsecond) to 2**30 ns (a second).
_EXPONENTS: Final = range(10, 31)


class SegmentCollector(Collector):
    """Makes metrics of what segments say of themselves, at each scrape.

    Parameters
    ----------
    infos : callable
        Gives the segments by name; None for one that is not there yet, whose figures are zeros.
    """

    def __init__(self, infos: Callable[[], Mapping[str, SegmentInfo | None]]) -> None:
        self._infos = infos

    def describe(self) -> Iterable[Metric]:
        """Name the metrics without looking at segments, which registering need not do."""
        return _families({})

    def collect(self) -> Iterable[Metric]:
        """Look at the segments now."""
        return _families(self._infos())


def _families(infos: Mapping[str, SegmentInfo | None]) -> list[Metric]:
    families: list[Metric] = []
    for metric, (attribute, text) in _COUNTERS.items():
        counter = CounterMetricFamily(f"billiards_shm_{metric}", text, labels=_LABELS)
        for name, info in infos.items():
            counter.add_metric([name], getattr(info, attribute, 0))
        families.append(counter)
    up = _gauge(infos, "up", "1 if the segment has a living writer", lambda info: info.status is SegmentStatus.LIVE)
    age = _gauge(
        infos,
        "last_frame_age_seconds",
        "Since the newest captured frame; 0 before the first",
        lambda info: info.last_frame_age or 0.0,
    )
    fps = _gauge(infos, "fps", "Frames per second, as the capture process measured it last", lambda info: info.fps)
    memory = _gauge(infos, "shared_memory_bytes", "Shared memory in use", lambda info: info.backed_bytes)
    readers = _gauge(infos, "readers", "Readers attached to the segment", lambda info: len(info.readers))
    return [*families, up, age, fps, memory, readers, _latency(infos), _description(infos)]


def _gauge(
    infos: Mapping[str, SegmentInfo | None], metric: str, text: str, value: Callable[[SegmentInfo], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"billiards_shm_{metric}", text, labels=_LABELS)
    for name, info in infos.items():
        family.add_metric([name], 0.0 if info is None else float(value(info)))
    return family


def _latency(infos: Mapping[str, SegmentInfo | None]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(
        "billiards_shm_write_latency_seconds",
        "To write one frame into shared memory; the sum is estimated from the buckets",
        labels=_LABELS,
    )
    for name, info in infos.items():
        counts = () if info is None else info.write_latency_buckets
        buckets = [(repr(2**exponent / 1e9), float(sum(counts[: exponent + 1]))) for exponent in _EXPONENTS]
        # Bucket i lies between 2**(i - 1) and 2**i ns.
        estimate = sum(count * 0.75 * 2**exponent for exponent, count in enumerate(counts)) / 1e9
        family.add_metric([name], [*buckets, ("+Inf", float(sum(counts)))], estimate)
    return family


def _description(infos: Mapping[str, SegmentInfo | None]) -> InfoMetricFamily:
    family = InfoMetricFamily("billiards_shm_segment", "What the segment holds and where it comes from", labels=_LABELS)
    for name, info in infos.items():
        described = {"backend": "", "format": "", "resolution": "", "source_state": "", "status": "detached"}
        if info is not None:
            described |= {
                "backend": info.backend,
                "format": info.pixel_format or "",
                "resolution": f"{info.width}x{info.height}" if info.width else "",
                "source_state": str(info.source_state),
                "status": str(info.status),
            }
        family.add_metric([name], described)
    return family


@contextmanager
def metrics_server(name: str, host: str, port: int) -> Iterator[int]:
    """Serve the metrics of one segment, in a thread of its own, while the block runs.

    Parameters
    ----------
    name : str
        The segment, which need not be there yet.
    host : str
        Address to listen at.
    port : int
        0: any that is free.

    Yields
    ------
    int
        The port.

    Raises
    ------
    OSError
        If that port cannot be listened at.
    """

    def look() -> Mapping[str, SegmentInfo | None]:
        try:
            return {name: inspect_segment(name)}
        except BilliardsShmError:
            return {name: None}

    registry = CollectorRegistry()
    registry.register(SegmentCollector(look))
    server, _ = start_http_server(port, addr=host, registry=registry)

    def end() -> None:
        server.shutdown()
        server.server_close()

    try:
        _log.info("Metrics at http://%s:%d/metrics", host, server.server_port)
        yield server.server_port
    finally:
        # It takes up to half a second to notice, and a process that stops is not to wait for that.
        threading.Thread(target=end, daemon=True).start()
