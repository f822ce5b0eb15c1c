"""Lists of choices that other packages extend: our names, and those of a group of entry points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from truetune import plugins


@dataclass(frozen=True)
class Brought:
    """Beside a `Literal`: the names that packages bring are choices too. Nothing is loaded to know them."""

    group: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_wrap_validator_function(
            self.check, handler(source), serialization=core_schema.simple_ser_schema("str")
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(schema)
        return {**found, "enum": [*found["enum"], *plugins.names(self.group)]}

    def check(self, value: Any, ours: core_schema.ValidatorFunctionWrapHandler) -> Any:
        try:
            return ours(value)
        except ValidationError as error:
            others = plugins.names(self.group)
            if isinstance(value, str) and value in others:
                return value
            if not others:
                raise
            expected = error.errors()[0]["ctx"]["expected"].replace(" or ", ", ")
            expected += "".join(f", '{name}'" for name in others)
            raise PydanticKnownError("literal_error", {"expected": expected}) from None
