"""A page of metrics as Prometheus reads it, in either format, and whether it keeps the conventions. Called by tests."""

import re
from collections.abc import Iterator

import attrs
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS = "application/openmetrics-text"
UNITS = ("seconds", "bytes", "cores")
"""The base units of what Mill measures; https://prometheus.io/docs/practices/naming/ has more."""
NOT_BASE = re.compile(r"_(ms|milliseconds|minutes|hours|kb|kib|mb|mib|percent|millicores)(_|$)")
SUFFIXES = {
    "counter": {"_total"},
    "histogram": {"_bucket", "_count", "_sum"},
    "info": {"_info"},
    "gauge": {""},
}
INFO = "mill_build_info"
"""An info of OpenMetrics is a gauge in the text format."""
RESERVED = ("_total", "_count", "_sum", "_bucket", "_info", "_created")

Labels = tuple[tuple[str, str], ...]


@attrs.frozen
class Scrape:
    """One page, parsed; `value` is what most tests ask for."""

    text: str
    families: tuple[Metric, ...]
    values: dict[tuple[str, Labels], float]

    @classmethod
    def parse(cls, text: str, content_type: str) -> "Scrape":
        parse = openmetrics.text_string_to_metric_families if OPENMETRICS in content_type else parse_text
        families = tuple(parse(text))
        values = {}
        for family in families:
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                assert key not in values, f"{key} is there twice"
                values[key] = sample.value
        return cls(text, families, values)

    def value(self, name: str, **labels: str) -> float:
        return self.values[name, tuple(sorted(labels.items()))]

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The series of *name* that are not 0, by the values of *labels*."""
        found = [(dict(said), value) for (one, said), value in self.values.items() if one == name and value]
        return {tuple(said[label] for label in labels): value for said, value in found}


def offences(scrape: Scrape) -> Iterator[str]:
    """What is against the conventions, a line each."""
    for family in scrape.families:
        yield from _of_names(family)
        if family.type == "histogram":
            yield from _of_buckets(family)
    if not scrape.text.endswith(
        "# EOF\n"
    ):  # in the text format a suffix is part of the name, and the parser adds it
        counters = re.findall(r"^# TYPE (\S+) counter$", scrape.text, re.MULTILINE)
        yield from (f"{name}: not a name for a counter" for name in counters if not name.endswith("_total"))
    names = [family.name for family in scrape.families]
    yield from (f"{name} is described twice" for name in sorted(set(names)) if names.count(name) > 1)


def _of_names(family: Metric) -> Iterator[str]:
    name = family.name
    if re.fullmatch(r"(mill|process)_[a-z][a-z0-9_]*", name) is None:
        yield f"{name}: not of ours, or not in snake case"
    if not re.fullmatch(r"[A-Z].*\.", family.documentation):
        yield f"{name}: HELP is no sentence: {family.documentation!r}"
    if family.type not in {"counter", "gauge", "histogram", "info"}:
        yield f"{name}: of the type {family.type}"
    if NOT_BASE.search(name):
        yield f"{name}: not in a base unit"
    if any(f"_{unit}_" in name for unit in UNITS) or (
        family.type == "histogram" and not name.endswith(UNITS)
    ):
        yield f"{name}: its unit is not its end"
    if family.unit and not name.endswith(f"_{family.unit}"):
        yield f"{name}: does not end in its unit, {family.unit}"
    yield from _of_samples(family)


def _of_samples(family: Metric) -> Iterator[str]:
    for sample in family.samples:
        suffix = sample.name.removeprefix(family.name)
        if sample.name != family.name + suffix or suffix not in SUFFIXES.get(family.type, ()):
            yield f"{sample.name}: not a name for a {family.type}"
        if family.type == "gauge" and family.name != INFO and sample.name.endswith(RESERVED):
            yield f"{sample.name}: a gauge with the name of something else"
        if family.type in {"counter", "histogram"} and sample.value < 0:
            yield f"{sample.name}: below 0"


def _of_buckets(family: Metric) -> Iterator[str]:
    counts: dict[Labels, list[tuple[float, float]]] = {}
    totals: dict[Labels, float] = {}
    for sample in family.samples:
        labels = tuple(sorted((key, value) for key, value in sample.labels.items() if key != "le"))
        if sample.name.endswith("_bucket"):
            counts.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_count"):
            totals[labels] = sample.value
    for labels, found in counts.items():
        values = [count for _, count in found]
        if found != sorted(found) or values != sorted(values) or found[-1] != (float("inf"), totals[labels]):
            yield f"{family.name}{dict(labels)}: its buckets do not add up"
