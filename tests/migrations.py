"""Dagster's migrations, read once a process: it reads all sixty for each instance and each run's log."""

from collections.abc import Generator
from contextlib import contextmanager

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory


@contextmanager
def read_once() -> Generator[None]:
    """Within the block, and in what is forked there, each folder of migrations is read once."""
    read, known = ScriptDirectory.from_config, dict[str | None, ScriptDirectory]()

    def from_config(config: Config) -> ScriptDirectory:
        place = config.get_main_option("script_location")
        return known.get(place) or known.setdefault(place, read(config))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", from_config)
        yield
