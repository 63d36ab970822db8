"""What `/metrics` said, read with Prometheus's own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


class Numbers:
    """`seen["sluiceway_streams_total", {"model": "gpt-5"}]`: the sum of all of this name that have these labels."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [
            sample
            for family in self.families.values()
            for sample in family.samples
            if not sample.name.endswith("_created")  # when a series began; only a process by itself tells that
        ]

    def __getitem__(self, wanted: str | tuple[str, dict[str, str]]) -> float:
        name, labels = wanted if isinstance(wanted, tuple) else (wanted, {})
        return sum(s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items())

    def names(self) -> set[str]:
        return {sample.name for sample in self.samples if sample.value}
