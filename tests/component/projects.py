"""A Dagster project in a folder of its own, with components that tests declare in YAML."""

import asyncio
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster.components.testing import DefsFolderSandbox

from dagster_peaka import PeakaProjectComponent
from dagster_peaka.sandbox import PeakaSandbox

TYPE = "dagster_peaka.PeakaProjectComponent"
KEY_VARIABLE = "PEAKA_API_KEY"


def connection_to(sandbox: PeakaSandbox, **settings: Any) -> dict[str, Any]:
    """The YAML of a connection to `sandbox` that is quick to look."""
    return {
        "project_id": sandbox.project_id,
        "base_url": sandbox.base_url,
        "poll_interval": 0.05,
        "request_max_retries": 0,
        **settings,
    }


@dataclass(frozen=True)
class Project:
    """A project in a temporary folder."""

    folder: DefsFolderSandbox
    monkeypatch: pytest.MonkeyPatch

    def declare(self, attributes: dict[str, Any] | str, folder: str = "peaka", kind: str = TYPE) -> Path:
        """Write a component's YAML, and return its file."""
        text = attributes if isinstance(attributes, str) else yaml.safe_dump(attributes, sort_keys=False)
        return self.write("defs.yaml", f"type: {kind}\nattributes:\n{textwrap.indent(text, '  ')}", folder)

    def write(self, name: str, text: str, folder: str = "peaka") -> Path:
        """Write a file of the project, and return it."""
        path = self.folder.defs_folder_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    @property
    def states(self) -> list[Path]:
        """The files in which state is kept."""
        return sorted((self.folder.defs_folder_path / ".local_defs_state").glob("*/state"))

    def definitions(self, folder: str = "peaka", *, dev: bool = False) -> dg.Definitions:
        """One component's definitions, as `dg` and `dagster dev` load them or as a deployed code server does."""
        # The variable by which Dagster itself tells the two apart.
        if dev:
            self.monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
        else:
            self.monkeypatch.delenv("DAGSTER_IS_DEV_CLI", raising=False)
        with self.folder.load_component_and_build_defs(self.folder.defs_folder_path / folder) as (_, loaded):
            loaded.get_repository_def()  # what does not fit together is an error here
            return loaded

    def component(self, folder: str = "peaka") -> PeakaProjectComponent:
        """The component as it is loaded, without its definitions."""
        with self.folder.build_component_tree() as tree:
            return tree.load_component(self.folder.defs_folder_path / folder, PeakaProjectComponent)

    def refresh(self, folder: str = "peaka") -> None:
        """Renew the state, as the command does."""
        asyncio.run(self.component(folder).refresh_state(self.folder.project_root))

    def refusal(self, folder: str = "peaka", *, dev: bool = False) -> str:
        """What is said about a component that cannot be loaded; Dagster shows it below a tree of the project."""
        with pytest.raises(Exception, match="Error while") as refused:  # Dagster's own kind is not public
            self.definitions(folder, dev=dev)
        assert refused.value.__cause__ is not None, refused.value
        return str(refused.value.__cause__)


def keys(definitions: dg.Definitions) -> set[str]:
    """The user strings of the keys of the assets that can be materialized."""
    return {
        key.to_user_string()
        for asset in definitions.assets or ()
        if isinstance(asset, dg.AssetsDefinition)
        for key in asset.keys
    }


def steps(definitions: dg.Definitions) -> dict[str, dg.AssetsDefinition]:
    """The assets of each step, by the name of its op."""
    return {
        asset.op.name: asset for asset in definitions.assets or () if isinstance(asset, dg.AssetsDefinition)
    }


def spec_of(definitions: dg.Definitions, key: str) -> dg.AssetSpec:
    """The spec of one asset."""
    specs = (spec for asset in steps(definitions).values() for spec in asset.specs)
    return next(spec for spec in specs if spec.key.to_user_string() == key)


def run_of(
    definitions: dg.Definitions, config: dict[str, Any] | None = None, **options: Any
) -> dg.ExecuteInProcessResult:
    """The finished run of all assets."""
    job = definitions.resolve_implicit_global_asset_job_def()
    return job.execute_in_process(run_config=config, raise_on_error=False, **options)
