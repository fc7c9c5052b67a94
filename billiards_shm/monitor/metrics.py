"""Metrics of segments for Prometheus, used by the server and by the capture process."""

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
from billiards_shm.statistics import STATISTICS
from billiards_shm.status import SegmentStatus, SourceState

__all__ = ["SegmentCollector", "metrics_server"]

_log = logging.getLogger(__name__)

_LABELS: Final = ("name",)
_FAMILIES: Final = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
# Metrics that are not in the table of statistics: name, help text, value, value without a segment. None: no sample.
_DERIVED: Final[tuple[tuple[str, str, Callable[[SegmentInfo], float | None], float | None], ...]] = (
    ("up", "1 if the segment has a living writer", lambda info: info.status is SegmentStatus.LIVE, 0),
    (
        "last_frame_age_seconds",
        "Time since the newest captured frame; absent before the first",
        lambda info: info.last_frame_age,
        None,  # 0 would be a brand-new frame
    ),
    (
        "clock_offset_seconds",
        "How far the clock of the driver or sender is ahead of this host's when its least late frame arrives",
        lambda info: None if info.clock_offset_ms is None else info.clock_offset_ms / 1e3,
        None,
    ),
    ("fps", "Frames per second, as the capture process last measured", lambda info: info.fps, 0),
    ("shared_memory_bytes", "Shared memory in use", lambda info: info.backed_bytes, 0),
    ("readers", "Readers attached to the segment", lambda info: len(info.readers), 0),
)
# Upper bounds of the segment's own buckets, 2**10 ns (a microsecond) to 2**30 ns (a second).
_EXPONENTS: Final = range(10, 31)


class SegmentCollector(Collector):
    """Collects the metrics of segments at each scrape.

    Parameters
    ----------
    infos : callable
        Returns the segments by name; None for one that does not exist yet: its counters are 0.
    """

    def __init__(self, infos: Callable[[], Mapping[str, SegmentInfo | None]]) -> None:
        self._infos = infos

    def describe(self) -> Iterable[Metric]:
        """Name the metrics without inspecting segments: registration does not need that."""
        return _families({})

    def collect(self) -> Iterable[Metric]:
        """Inspect the segments now."""
        return _families(self._infos())


def _families(infos: Mapping[str, SegmentInfo | None]) -> list[Metric]:
    families: list[Metric] = []
    for attribute, row in STATISTICS.items():
        family = _FAMILIES[row.kind](f"billiards_shm_{row.metric}", row.description, labels=_LABELS)
        for name, info in infos.items():
            value = getattr(info, attribute, 0)
            family.add_metric([name], value / 1e6 if row.unit == "us" else value)
        families.append(family)
    for metric, text, derived, absent in _DERIVED:
        gauge = GaugeMetricFamily(f"billiards_shm_{metric}", text, labels=_LABELS)
        for name, info in infos.items():
            found = absent if info is None else derived(info)
            if found is not None:
                gauge.add_metric([name], float(found))
        families.append(gauge)
    return [*families, _latency(infos), _description(infos)]


def _latency(infos: Mapping[str, SegmentInfo | None]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(
        "billiards_shm_write_latency_seconds",
        "Time to write one frame into shared memory; the sum is estimated from the buckets",
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
        family.add_metric(
            [name],
            {
                "backend": info.backend if info else "",
                "format": info.pixel_format or "" if info else "",
                "resolution": "{}x{}".format(*info.picture_size) if info and info.picture_size else "",
                "source_state": str(info.source_state if info else SourceState.UNKNOWN),
                "status": str(info.status if info else SegmentStatus.DETACHED),
            },
        )
    return family


@contextmanager
def metrics_server(name: str, host: str, port: int) -> Iterator[int]:
    """Serve the metrics of one segment, in their own thread, while the block runs.

    Parameters
    ----------
    name : str
        The segment, which does not have to exist yet.
    host : str
        Address to listen on.
    port : int
        0: any free port.

    Yields
    ------
    int
        The port.

    Raises
    ------
    OSError
        The port cannot be opened.
    """

    def inspect() -> Mapping[str, SegmentInfo | None]:
        try:
            return {name: inspect_segment(name)}
        except BilliardsShmError:
            return {name: None}

    registry = CollectorRegistry()
    registry.register(SegmentCollector(inspect))
    server, _ = start_http_server(port, addr=host, registry=registry)

    def stop() -> None:
        server.shutdown()
        server.server_close()

    try:
        _log.info("Metrics at http://%s:%d/metrics", host, server.server_port)
        yield server.server_port
    finally:
        # The server takes up to half a second to stop; the process does not wait for it.
        threading.Thread(target=stop, daemon=True).start()
