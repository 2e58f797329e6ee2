"""Keys, ids and addresses that bring line ends, blanks or quotes along, as secret files and `--env-file` give them."""

from typing import Any

import dagster as dg
import pytest

from dagster_peaka import PeakaClient, PeakaConfigError, PeakaResource, build_peaka_cache_asset
from dagster_peaka.sandbox import PeakaSandbox

AROUND = ["{}\n", "{}\r\n", " {} ", "\t{}", '"{}"', "'{}'", '"{}"\n', "\ufeff{}", "' \"{}\" '"]


@pytest.mark.parametrize("around", AROUND)
def test_a_client_takes_keys_ids_and_addresses_as_files_give_them(sandbox: PeakaSandbox, around: str) -> None:
    """What stands around them is no part of them."""
    given = map(around.format, (sandbox.api_key, sandbox.project_id, sandbox.base_url))
    with PeakaClient(*given) as client:
        assert client.project_id == sandbox.project_id
        assert client.get_cache_status(sandbox.caches["ops.public.t"]).id == sandbox.caches["ops.public.t"]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("as_variables", [False, True], ids=["values", "variables"])
def test_a_resource_takes_them_too(
    sandbox: PeakaSandbox, monkeypatch: pytest.MonkeyPatch, around: str, as_variables: bool
) -> None:
    """As plain values, and as variables that are read when a run begins."""
    given: dict[str, Any] = {
        "api_key": around.format(sandbox.api_key),
        "project_id": around.format(sandbox.project_id),
        "base_url": around.format(sandbox.base_url),
        "zone": around.format("US"),
    }
    if as_variables:
        for name, value in given.items():
            monkeypatch.setenv(f"GIVEN_{name}", value)
        given = {name: dg.EnvVar(f"GIVEN_{name}") for name in given}
    peaka = PeakaResource(**given, poll_interval=0.05)
    asset = build_peaka_cache_asset(cache_id=around.format(sandbox.caches["ops.public.t"]))

    assert dg.materialize([asset], resources={"peaka": peaka}).success
    assert asset.key == dg.AssetKey(["peaka", sandbox.caches["ops.public.t"]])
    assert peaka.sync(around.format(sandbox.caches["ops.public.t"])).succeeded
    if not as_variables:
        assert (peaka.project_id, peaka.zone) == (sandbox.project_id, "us")


@pytest.mark.parametrize("value", ["", " ", '""', "\n", "''", None, 7])
def test_what_is_nothing_but_quotes_is_empty(value: Any) -> None:
    """A variable that was set to quotes alone is one that was not set."""
    with pytest.raises(PeakaConfigError, match="api_key is empty"):
        PeakaClient(value, "p")
    with pytest.raises(PeakaConfigError, match="project_id is empty"):
        PeakaClient("pk-3f9c2b7e", value)


@pytest.mark.parametrize("project_id", ["a\nb", "a\x00b"])
def test_a_line_end_within_a_project_id_is_named(project_id: str) -> None:
    """Two lines of a file are no id."""
    with pytest.raises(PeakaConfigError, match="project_id holds a line end or another control character"):
        PeakaClient("pk-3f9c2b7e", project_id)
