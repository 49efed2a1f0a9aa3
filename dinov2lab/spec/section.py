"""What every section of a spec is made of: frozen, strict, complete; and how a field is added without changing old ids."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A frozen part of a spec. Unknown keys, wrong types, NaN and infinities are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Steps = Annotated[int, Field(ge=0)]


def later(*, absent: Any, **field: Any) -> Any:
    """A pydantic Field for a spec that has been released without it; it defaults to what its absence meant.

    At that value it is left out of the hash (identity.py), so that the ids of runs from before it survive.
    """
    return Field(default=absent, json_schema_extra={"absent": absent}, **field)
