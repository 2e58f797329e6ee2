"""What one component's resource, steps, sensors and state are called."""

import dagster as dg

from dagster_peaka.caches.names import op_name


def plain(project_id: str) -> str:
    """A project's id; of one that is kept in a variable the variable's name."""
    return project_id.env_var_name if isinstance(project_id, dg.EnvVar) else project_id


def name_of(context: dg.ComponentLoadContext) -> str:
    """The name of what one component makes, after the folder that it is in: no two components share it."""
    place = context.component_path
    folder = place.file_path.relative_to(context.defs_module_path).parts
    parts = [part.removesuffix(".py") for part in folder if part != "component.py"]
    if place.instance_key not in (None, 0, "load"):
        parts.append(str(place.instance_key))
    return op_name(dg.AssetKey(parts or ["peaka"]))
