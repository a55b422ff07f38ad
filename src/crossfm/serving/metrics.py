"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one application, beside those of its process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = Counter(
            "crossfm_requests", "Requests answered.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "crossfm_request_seconds", "From the first byte to the last.", ["path"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.in_flight = Gauge(
            "crossfm_requests_in_flight", "Requests being answered.", registry=self.registry
        )
        self.batch = Histogram(
            "crossfm_batch_size", "Requests answered by one call.", ["path"],
            buckets=BATCHES, registry=self.registry,
        )  # fmt: skip
        self.models = Counter(
            "crossfm_model_loads", "New files, taken or refused.", ["result"],
            registry=self.registry,
        )  # fmt: skip
        self.model = Gauge(
            "crossfm_model_loaded", "When the model that answers was loaded, Unix time.",
            ["version"], registry=self.registry,
        )  # fmt: skip

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)
