"""What every section of ray_config.yaml is made of; robust/config.py and robust/deploy_config.py are the sections."""
from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def resource(default: Any = ..., **keywords: Any) -> Any:
    """A setting about machines or output, not about the result: it may differ when a run is resumed."""
    return Field(default, json_schema_extra={"resource": True}, **keywords)
