"""A code location with a project's caches from a saved snapshot, a step for each catalog."""

import os

import dagster as dg

from dagster_peaka import PeakaProject, PeakaResource, build_peaka_cache_assets

defs = dg.Definitions(
    assets=build_peaka_cache_assets(
        PeakaProject.load(os.environ["PEAKA_SNAPSHOT"]),
        step_per="catalog",
        checks={"last_sync_succeeded": True},
    ),
    resources={
        "peaka": PeakaResource(
            api_key=dg.EnvVar("PEAKA_API_KEY"),
            project_id=dg.EnvVar("PEAKA_PROJECT_ID"),
            base_url=os.environ["PEAKA_BASE_URL"],
            poll_interval=0.1,
        )
    },
    executor=dg.in_process_executor,
)
