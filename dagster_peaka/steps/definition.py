"""From specs to a step: the op that materializes these assets, by whatever body."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from dagster_peaka.caches.names import op_name
from dagster_peaka.errors import PeakaConfigError


@dataclass(frozen=True)
class StepSettings:
    """What a factory's arguments say about its steps."""

    retry_policy: dg.RetryPolicy | None
    pool: str | None
    op_tags: Mapping[str, object] | None = None

    def definition(
        self,
        body: Callable[..., Iterable[object]],
        specs: Sequence[dg.AssetSpec],
        checks: Mapping[str, dg.AssetCheckSpec],
        name: str,
        *resource_keys: str,
    ) -> dg.AssetsDefinition:
        """The step that ``body`` does for ``specs``.

        Args:
            checks: those that it evaluates, by the names of their outputs.

        Built from an op, because ``@dg.multi_asset`` makes up names of inputs and outputs from keys, and refuses keys
        of which no name can be made.
        """
        _check_independent(specs, name)
        outputs = {f"result__{op_name(spec.key)}": spec for spec in specs}
        upstream = dict.fromkeys(dep.asset_key for spec in specs for dep in spec.deps)
        inputs = {f"upstream__{op_name(key)}": key for key in upstream}
        op = dg.op(
            name=name,
            ins={input_name: dg.In(dg.Nothing) for input_name in inputs},
            out={
                # Not required: Dagster materializes by itself what is required and not yielded.
                **{
                    output: dg.Out(dg.Nothing, is_required=False, code_version=spec.code_version)
                    for output, spec in outputs.items()
                },
                **{output: dg.Out(dg.Nothing, is_required=False) for output in checks},
            },
            required_resource_keys=set(resource_keys),
            tags=self.op_tags,
            retry_policy=self.retry_policy,
            pool=self.pool,
        )(body)
        return dg.AssetsDefinition(
            node_def=op,
            keys_by_input_name=inputs,
            keys_by_output_name={output: spec.key for output, spec in outputs.items()},
            specs=list(specs),
            check_specs_by_output_name=dict(checks),
            can_subset=True,
        )


def _check_independent(specs: Sequence[dg.AssetSpec], name: str) -> None:
    """One step syncs its caches side by side, so none of them may wait for another."""
    keys = {spec.key for spec in specs}
    for spec in specs:
        waited_for = [dep.asset_key.to_user_string() for dep in spec.deps if dep.asset_key in keys]
        if waited_for:
            raise PeakaConfigError(
                f"Asset {spec.key.to_user_string()} depends on {', '.join(waited_for)}, and step {name!r} would sync "
                "both side by side: give them steps of their own (step_per='cache'), or take the dependency away."
            )
