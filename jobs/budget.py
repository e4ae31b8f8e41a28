"""Device-hours of a search: what its trials have reported, and whether another may begin."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Budget:
    """Of GPUs where trials have one, else of CPUs. A trial's time is what it last reported: from its start to the end of
    an epoch, attempts that were broken off without the part that is done again."""

    hours: float | None
    devices: float
    seconds: dict[str, float] = field(default_factory=dict)

    def note(self, trial_id: str, result: Mapping | None) -> None:
        self.seconds[trial_id] = max(self.seconds.get(trial_id, 0.0), float((result or {}).get("time_total_s") or 0.0))

    @property
    def spent_hours(self) -> float:
        return device_hours(sum(self.seconds.values()), self.devices)

    @property
    def is_spent(self) -> bool:
        return self.hours is not None and self.spent_hours >= self.hours


def device_hours(seconds: float, devices: float) -> float:
    return seconds * devices / 3600
