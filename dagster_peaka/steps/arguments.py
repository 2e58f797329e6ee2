"""Arguments that factories for many caches or queries had in release 0.1, and what to write now."""

import functools
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

_MERGED = (
    "write `dg.map_asset_specs(lambda spec: spec.merge_attributes({0}=…), assets)` for all of them, or say it for each "
    "in a translator"
)
_REPLACED = _MERGED.replace("merge_attributes", "replace_attributes")

DROPPED = {
    "deps": f"{_MERGED}; `DagsterPeakaTranslator(source_asset_key=…)` names the asset that fills a cache's table",
    **dict.fromkeys(("metadata", "tags"), _MERGED),
    **dict.fromkeys(
        (
            "owners",
            "kinds",
            "group_name",
            "code_version",
            "automation_condition",
            "freshness_policy",
            "description",
        ),
        _REPLACED,
    ),
    "key": "override `get_asset_spec` of a DagsterPeakaTranslator, and set the key there",
    "op_tags": "steps are tagged by build_peaka_cache_asset, @peaka_cache_assets and the component's `op`",
    "last_sync_check": 'write `checks={{"last_sync_succeeded": True}}`',
}
"""What to do instead of arguments that went, or that a user may look for."""


def instead(dropped: Mapping[str, str] = DROPPED) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A factory that says of each dropped argument what to write in its place, as a TypeError."""

    def decorated(factory: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(factory)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            known = factory.__kwdefaults__ or {}
            for name in kwargs:
                if name in dropped and name not in known:
                    advice = dropped[name].format(name)
                    raise TypeError(f"{factory.__name__} takes no {name}: {advice}.")
            return factory(*args, **kwargs)

        return called

    return decorated
