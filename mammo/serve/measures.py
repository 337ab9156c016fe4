"""What the service counts, for Prometheus."""

from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SIZES = (1, 2, 4, 8, 16, 32, 64)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Measures:
    """Counters of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        shared: Any = {"registry": self.registry}
        self.votes = Counter("mammo_votes", "ROIs voted on", ["version", "label"], **shared)
        self.referrals = Counter("mammo_referrals", "ROIs referred to a reader", ["version"], **shared)
        self.refused = Counter("mammo_refused", "Requests refused", ["status"], **shared)
        self.queue = Gauge("mammo_queue", "ROIs that wait for a batch", **shared)
        self.batch = Histogram("mammo_batch_size", "ROIs voted on together", buckets=SIZES, **shared)
        self.decode = Histogram(
            "mammo_decode_seconds", "Decoding of a request's pictures", buckets=SECONDS, **shared
        )
        self.vote = Histogram(
            "mammo_vote_seconds", "From decoded to voted, with waiting", buckets=SECONDS, **shared
        )
        self.drifted = Gauge(
            "mammo_alias_drift", "1 while the alias champion names another version", **shared
        )
        self._loaded = Gauge("mammo_version_loaded", "1 for the version that answers", ["version"], **shared)

    def answered(self, row: Mapping[str, Any]) -> None:
        """Count an answer."""
        self.votes.labels(row["model_version"], row["label"]).inc()
        self.referrals.labels(row["model_version"]).inc(int(row["referral"]))

    def loaded(self, version: str) -> None:
        """Name the version that answers."""
        self._loaded.clear()
        self._loaded.labels(version).set(1)
