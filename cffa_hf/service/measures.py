"""What the service counts, in the format of Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Measures:
    """Counters in a registry of their own, so that several services may live in one process.

    Attributes:
        requests: By endpoint and status.
        seconds: From the arrival of a request to its answer, by endpoint.
        refused: Requests that were not answered, by reason.
        dropped: Queries taken out of the queue unanswered, for their client was gone or their time was up.
        batch_size: Sentences and images of a batch.
        batch_seconds: Encoding and search of a batch.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cffa_requests", "Requests by endpoint and status.", ["endpoint", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "cffa_request_seconds",
            "From the arrival of a request to its answer.",
            ["endpoint"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.refused = Counter(
            "cffa_refused", "Requests that were not answered, by reason.", ["reason"], registry=self.registry
        )
        self.dropped = Counter(
            "cffa_dropped",
            "Queries taken out of the queue unanswered: their client was gone or their time was up.",
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "cffa_batch_size", "Sentences and images of a batch.", buckets=SIZES, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "cffa_batch_seconds", "Encoding and search of a batch.", buckets=SECONDS, registry=self.registry
        )
        self._queue = Gauge("cffa_queue_length", "Sentences and images that wait.", registry=self.registry)

    def watch_queue(self, length: Callable[[], int]) -> None:
        """Read the length of the queue whenever the measures are asked for."""
        self._queue.set_function(length)

    def text(self) -> bytes:
        """Return all measures in the text format of Prometheus."""
        return generate_latest(self.registry)
