"""Everything that Dagster loads from this project."""

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Collect what the modules of `flights.defs` define."""
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
