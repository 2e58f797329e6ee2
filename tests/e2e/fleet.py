"""A code location with the caches of a saved snapshot, one step for each catalog, and a query over two of them.

Loading it asks Peaka nothing.
"""

import os

import dagster as dg

from dagster_peaka import (
    PeakaProject,
    PeakaResource,
    build_peaka_cache_assets,
    build_peaka_query_assets,
)

project = PeakaProject.load(os.environ["FLEET_SNAPSHOT"])

defs = dg.Definitions(
    assets=[
        *build_peaka_cache_assets(project, selector="shop_*.public.*", step_per="catalog"),
        *build_peaka_query_assets(project, selector="dearest", sources_check="block"),
    ],
    resources={
        "peaka": PeakaResource(
            api_key=dg.EnvVar("PEAKA_API_KEY"),
            project_id=dg.EnvVar("PEAKA_PROJECT_ID"),
            base_url=os.environ.get("PEAKA_BASE_URL"),
        )
    },
    executor=dg.in_process_executor,
)
