"""What the configurations of all models share: plain values in, strangers and impossible choices refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, ClassVar, Self

from scfoundry._arguments import expected, fits, hints_of, quoted, shown

__all__ = ["PlainConfig"]


class PlainConfig:
    """Base of the frozen dataclasses that define a model."""

    _of: ClassVar[str]
    """Whose values they are, for messages."""

    _found: ClassVar[tuple[str, ...]] = ()
    """Values that a training finds."""

    def __post_init__(self) -> None:
        own: Any = type(self)
        for field in fields(own):
            hint, value = hints_of(own)[field.name], getattr(self, field.name)
            if not fits(value, hint):
                msg = f"{self._of} config: {field.name} must be {expected(hint)}; got {shown(value)}."
                raise ValueError(msg)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read plain values as they stand in JSON, refusing unknown names."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(values.keys() - known):
            msg = f"{cls._of} has no config value {quoted(unknown)}; known: {', '.join(sorted(known))}."
            raise ValueError(msg)
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as they stand in JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    def choices(self) -> dict[str, Any]:
        """Plain values without those that a training finds."""
        return {name: value for name, value in self.as_dict().items() if name not in self._found}
