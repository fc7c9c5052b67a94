"""What the server counts of itself, next to the metrics of the segments."""

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from billiards_shm.monitor.health import HealthMonitor, SegmentHealth
from billiards_shm.monitor.metrics import SegmentCollector
from billiards_shm.serve.clients import Clients

__all__ = ["ServerMetrics"]

_LABELS: Final = ("kind", "name")
_TOTALS: Final = {
    "frames": ("client_frames", "Frames sent to clients"),
    "skipped": ("client_frames_skipped", "Frames that clients were not sent, by their own wish or for being slow"),
    "bytes": ("client_bytes", "Bytes of pictures and events sent to clients"),
}


class ServerMetrics:
    """The registry of one application.

    Parameters
    ----------
    observer : HealthMonitor
    clients : Clients
    """

    def __init__(self, observer: HealthMonitor, clients: Clients) -> None:
        self._observer = observer
        self._registry = CollectorRegistry()
        self._registry.register(SegmentCollector(observer.infos))
        self._registry.register(_ClientCollector(observer, clients))
        self._encode = Histogram(
            "billiards_shm_encode_seconds",
            "To encode one frame as a JPEG, scaling included",
            ["name"],
            buckets=(0.001, 0.002, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.033, 0.05, 0.1, 0.25),
            registry=self._registry,
        )

    def encoded(self, name: str, seconds: float) -> None:
        """Note how long an encoding took; from any thread."""
        self._encode.labels(name).observe(seconds)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Give the metrics as a scraper that sent `accept` wants them, and their content type."""
        for name in self._observer.look():
            self._encode.labels(name)  # shows zeros for what nobody has watched yet
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type


class _ClientCollector(Collector):
    def __init__(self, observer: HealthMonitor, clients: Clients) -> None:
        self._observer = observer
        self._clients = clients

    def describe(self) -> Iterable[Metric]:
        return self._families({})

    def collect(self) -> Iterable[Metric]:
        return self._families(self._observer.look())

    def _families(self, observations: Mapping[str, SegmentHealth]) -> list[Metric]:
        healthy = GaugeMetricFamily("billiards_shm_healthy", "1 if /health/NAME says 200", labels=["name"])
        for name, observation in observations.items():
            healthy.add_metric([name], float(observation.healthy))
        here = GaugeMetricFamily("billiards_shm_clients", "Clients connected now", labels=_LABELS)
        totals = self._clients.totals()
        keys = {(kind, name) for _, kind, name in totals} | {("events", "")}
        keys |= {(kind, name) for kind in ("mjpeg", "websocket") for name in observations}
        for key in sorted(keys):
            here.add_metric(key, sum((client.kind, client.name) == key for client in self._clients))
        families: list[Metric] = [healthy, here]
        for what, (metric, text) in _TOTALS.items():
            family = CounterMetricFamily(f"billiards_shm_{metric}", text, labels=_LABELS)
            for key in sorted(keys):
                family.add_metric(key, totals[(what, *key)])
            families.append(family)
        return families
