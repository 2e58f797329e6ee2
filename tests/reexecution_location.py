"""A code location with one step of five caches, for a run that is re-executed from asset failure."""

import os

import dagster as dg

from dagster_peaka import PeakaResource
from tests.fleets import fleet

TABLES = ("a", "b", "c", "d", "e")

defs = dg.Definitions(
    assets=[fleet({table: {"peaka/table": f"shop.public.{table}"} for table in TABLES}, checks=True)],
    resources={
        "peaka": PeakaResource(
            api_key=dg.EnvVar("PEAKA_API_KEY"),
            project_id=dg.EnvVar("PEAKA_PROJECT_ID"),
            base_url=os.environ.get("PEAKA_BASE_URL", "http://127.0.0.1:1/api/v1"),
            poll_interval=0.1,
        )
    },
)
