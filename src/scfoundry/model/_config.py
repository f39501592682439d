"""What the configurations of all models share: plain values in, strangers and impossible choices refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, Self, get_args

__all__ = ["PlainConfig"]


class PlainConfig:
    """Base of the frozen dataclasses that define a model."""

    _of: ClassVar[str]
    """Whose values they are, for messages."""

    _choices: ClassVar[dict[str, Any]] = {}
    """Values with a fixed set of choices, each with its `typing.Literal`."""

    def __post_init__(self) -> None:
        for name, choices in self._choices.items():
            value = getattr(self, name)
            if value not in get_args(choices):
                known = ", ".join(map(repr, get_args(choices)))
                msg = f"{self._of} config: {name} must be one of {known}; got {value!r}."
                raise ValueError(msg)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read plain values as they stand in JSON, refusing unknown names."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(values.keys() - known):
            msg = f"{cls._of} has no config value {', '.join(map(repr, unknown))}; known: {', '.join(sorted(known))}."
            raise ValueError(msg)
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
