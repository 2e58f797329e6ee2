"""The code location of the deployment: caches whose steps Celery's workers do, and the sensor that polls them."""

import importlib
import os

import dagster as dg

from dagster_peaka import PeakaResource, build_peaka_cache_asset, build_peaka_polling_sensor

celery = importlib.import_module("dagster_celery")  # so that lint and the other tests need it not

TABLES = {
    "six": "dagster",  # a queue that both workers read
    "left": "dagster",
    **{f"one_{number}": "one" for number in range(9)},  # read by one worker
    **{f"two_{number}": "two" for number in range(6)},  # and by the other
}
"""The tables, which are also the last part of the assets' keys, each with the queue of its steps."""

DEFERRED = "left"
"""The table whose steps do not wait."""

assets = [
    build_peaka_cache_asset(
        table=f"ops.public.{table}", op_tags={"dagster-celery/queue": queue}, wait=table != DEFERRED
    )
    for table, queue in TABLES.items()
]

defs = dg.Definitions(
    assets=assets,
    sensors=[build_peaka_polling_sensor(assets, name="polling", minimum_interval_seconds=1)],
    resources={
        "peaka": PeakaResource(
            api_key=dg.EnvVar("PEAKA_API_KEY"),
            project_id=dg.EnvVar("PEAKA_PROJECT_ID"),
            base_url=os.environ["PEAKA_BASE_URL"],
            poll_interval=0.1,
            poll_max_interval=1.0,
        )
    },
    executor=celery.celery_executor.configured(
        {"broker": os.environ["PRODUCTION_BROKER"], "backend": os.environ["PRODUCTION_BROKER"]}
    ),
)
