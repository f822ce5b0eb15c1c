"""Figures of the server in Prometheus' text format: what runs and waits, what was answered, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

TYPE = CONTENT_TYPE_LATEST
FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BETWEEN = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
WHOLE = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
GAUGES = {
    "running": "Answers that are being written.",
    "waiting": "Requests that wait for a slot.",
    "slots": "Answers that can be written at once.",
    "adapters": "Adapters that are loaded.",
}

Stats = Callable[[], Mapping[str, float]]


class Metrics:
    """A registry of its own, so that several servers in one process do not add up."""

    def __init__(self, stats: Stats) -> None:
        """`stats` is asked whenever somebody reads: values by the names of `GAUGES`."""
        self.registry = registry = CollectorRegistry()
        for name, text in GAUGES.items():
            Gauge(f"truetune_{name}", text, registry=registry).set_function(lambda name=name: stats().get(name, 0))  # type: ignore[misc]
        self.answers = Counter("truetune_answers", "Answers by status.", ["route", "status"], registry=registry)
        self.prompt = Counter("truetune_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.written = Counter("truetune_generation_tokens", "Tokens that were written.", registry=registry)
        self.cancelled = Counter("truetune_cancelled", "Requests whose client has gone.", registry=registry)
        self.first = histogram("time_to_first_token", "From a request to its first token.", FIRST, registry)
        self.between = histogram("time_per_output_token", "Between tokens of an answer, its mean.", BETWEEN, registry)
        self.whole = histogram("request_duration", "From a request to the end of its answer.", WHOLE, registry)

    def finished(self, began: float, first: float | None, end: float, tokens: int) -> None:
        """An answer that came to its end; times in seconds of one clock."""
        self.written.inc(tokens)
        self.whole.observe(end - began)
        if first is not None:
            self.first.observe(first - began)
            if tokens > 1:
                self.between.observe((end - first) / (tokens - 1))

    def text(self) -> bytes:
        return generate_latest(self.registry)


def histogram(name: str, text: str, buckets: tuple[float, ...], registry: CollectorRegistry) -> Histogram:
    return Histogram(f"truetune_{name}_seconds", text, buckets=buckets, registry=registry)
