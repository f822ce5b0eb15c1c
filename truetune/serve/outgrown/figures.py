"""The figures of several replicas as one page of Prometheus' text format, each with the number of its replica."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


class Pages(Collector):
    """Pages by the number of their replica, and which replicas take requests."""

    def __init__(self, pages: Mapping[int, bytes], up: Mapping[int, bool]) -> None:
        self.pages, self.up = pages, up

    def collect(self) -> Iterator[Metric]:
        there = GaugeMetricFamily("truetune_replica_up", "Whether a replica takes requests.", labels=["replica"])
        for number, taken in self.up.items():
            there.add_metric([str(number)], float(taken))
        yield there
        families: dict[str, Metric] = {}
        for number, page in self.pages.items():
            for family in text_string_to_metric_families(page.decode()):
                kept = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    kept.add_sample(sample.name, sample.labels | {"replica": str(number)}, sample.value)
        yield from families.values()


def joined(pages: Mapping[int, bytes], up: Mapping[int, bool]) -> bytes:
    registry = CollectorRegistry()
    registry.register(Pages(pages, up))
    return generate_latest(registry)
