"""The connection to Peaka, an account or the sandbox: only the environment tells them apart."""

import os

import dagster as dg

from dagster_peaka import PeakaResource


def peaka_resource() -> PeakaResource:
    """The connection, with the key and the project left to the environment of the step, so in no snapshot."""
    return PeakaResource(
        api_key=dg.EnvVar("PEAKA_API_KEY"),
        project_id=dg.EnvVar("PEAKA_PROJECT_ID"),
        zone=os.environ.get("PEAKA_ZONE") or "us",
        base_url=os.environ.get("PEAKA_BASE_URL") or None,
    )


@dg.definitions
def resources() -> dg.Definitions:
    """Bind `peaka`."""
    return dg.Definitions(resources={"peaka": peaka_resource()})
