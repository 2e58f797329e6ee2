"""What ``dg scaffold defs dagster_peaka.PeakaProjectComponent`` writes."""

from typing import Any

import dagster as dg
from pydantic import BaseModel, Field

from dagster_peaka.component.settings import API_KEY_VARIABLE


class PeakaScaffoldParams(BaseModel):
    """The options of the command."""

    project_id: str = Field(
        default="{{ env.PEAKA_PROJECT_ID }}", description="The id of the Peaka project, as in its address."
    )
    zone: str | None = Field(default=None, description="The zone of the account: us (default) or eu.")
    base_url: str | None = Field(default=None, description="The API's address, such as a sandbox's.")


class PeakaProjectComponentScaffolder(dg.Scaffolder[PeakaScaffoldParams]):
    """Writes a ``defs.yaml`` with the connection; the key is named by its environment variable."""

    @classmethod
    def get_scaffold_params(cls) -> type[PeakaScaffoldParams]:
        """The options of the command."""
        return PeakaScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[PeakaScaffoldParams]) -> None:
        """Write the file."""
        connection: dict[str, Any] = {"api_key": {"env": API_KEY_VARIABLE}}
        connection.update(request.params.model_dump(exclude_none=True))
        dg.scaffold_component(request, {"connection": connection})
