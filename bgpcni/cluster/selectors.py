"""Label selectors as Kubernetes has them. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def label_value(value: str) -> str:
    """A label's value. Raises ValueError."""
    if not _VALUE.fullmatch(value):
        raise ValueError(f"{value!r} is not a label's value: at most 63 letters, digits, '-', '_' and '.'")
    return value


def label_key(key: str) -> str:
    """A label's key, `name` or `prefix/name`. Raises ValueError."""
    prefix, slash, name = key.rpartition("/")
    if not name or not _VALUE.fullmatch(name) or (slash and (len(prefix) > 253 or not _PREFIX.fullmatch(prefix))):
        raise ValueError(
            f"{key!r} is not a label's key: at most 63 letters, digits, '-', '_' and '.', after a DNS name/"
        )
    return key


LabelKey = Annotated[str, AfterValidator(label_key)]
LabelValue = Annotated[str, AfterValidator(label_value)]
Labels = dict[LabelKey, LabelValue]


class Requirement(BaseModel):
    """One entry of `matchExpressions`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[LabelValue, ...] = ()

    @model_validator(mode="after")
    def _has_the_values_it_needs(self) -> Requirement:
        if self.operator in ("In", "NotIn") and not self.values:
            raise ValueError(f"values: missing, operator {self.operator} needs at least one")
        if self.operator in ("Exists", "DoesNotExist") and self.values:
            raise ValueError(f"values: operator {self.operator} takes none")
        return self

    def matches(self, labels: Mapping[str, str]) -> bool:
        """As Kubernetes: `NotIn` also matches labels without the key."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case _:
                return self.key not in labels


class Selector(BaseModel):
    """`matchLabels` and `matchExpressions`, which all have to match; without any, everything matches."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        hide_input_in_errors=True,
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},  # an API server keeps a plain mapping
    )

    match_labels: Labels = Field(default_factory=dict, alias="matchLabels")
    match_expressions: tuple[Requirement, ...] = Field(default=(), alias="matchExpressions")

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            one.matches(labels) for one in self.match_expressions
        )


def _plain(value: Any) -> Any:
    """A plain mapping means `matchLabels`."""
    if isinstance(value, dict) and value and not value.keys() & {"matchLabels", "matchExpressions"}:
        return {"matchLabels": value}
    return value


AnySelector = Annotated[Selector, BeforeValidator(_plain)]
