"""The component by which a whole Peaka project is declared in YAML, and the sections of that YAML."""

from dagster_peaka.component.attributes import PeakaCacheEntry, PeakaCacheOverride
from dagster_peaka.component.settings import (
    PeakaCheckSettings,
    PeakaOpSettings,
    PeakaPollingSensorSettings,
    PeakaQuerySettings,
    PeakaUpstreamSensorSettings,
)

__all__ = [
    "PeakaCacheEntry",
    "PeakaCacheOverride",
    "PeakaCheckSettings",
    "PeakaOpSettings",
    "PeakaPollingSensorSettings",
    "PeakaQuerySettings",
    "PeakaUpstreamSensorSettings",
]
