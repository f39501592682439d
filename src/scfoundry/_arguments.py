"""What a value may be: type hints, read once, checked where users and files hand values in."""

from __future__ import annotations

import ast
import builtins
import collections.abc
import functools
import importlib
import inspect
import math
import sys
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import numpy as np

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "Count",
    "NonNegative",
    "Positive",
    "Share",
    "Size",
    "checks_arguments",
    "expected",
    "fits",
    "hints_of",
    "quoted",
    "require_column",
    "shown",
]

Function = TypeVar("Function", bound="Callable[..., Any]")
N_CHARACTERS = 80


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``; ``above`` leaves ``low`` itself out."""

    low: float
    high: float = math.inf
    above: bool = False

    def __contains__(self, value: float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"{'above' if self.above else 'from'} {self.low:g} to {self.high:g}"
        return f"above {self.low:g}" if self.above else f"of at least {self.low:g}"


Size = Annotated[int, Range(1)]
Count = Annotated[int, Range(0)]
Share = Annotated[float, Range(0, 1)]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]

# Hint -> types of its values, and what they are called. A bool is no number, though Python counts it among them.
PLAIN: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool, np.bool_), "True or False"),
    int: ((int, np.integer), "a whole number"),
    float: ((int, float, np.integer, np.floating), "a finite number"),
    str: ((str,), "text"),
    type(None): ((type(None),), "None"),
}
# A model is what it can do, of whatever class: the capabilities say so, not the hints.
BY_CAPABILITY = ("scfoundry.model", "scfoundry.tasks")
# Arguments that count something, of which a function needs one.
AT_LEAST_ONE = (
    *("genes_per_block", "k", "max_epochs", "min_cells", "min_genes", "n_genes", "n_markers", "n_per_stratum"),
    *("n_top_genes", "pairs_per_step", "patience", "top_k"),
)
# What else holds for arguments of a name, whatever the function; `None` and generators of random numbers are let pass.
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "rng": (lambda value: value >= 0, "a seed of at least 0"),
    "seed": (lambda value: value >= 0, "a seed of at least 0"),
    "key_added": (lambda value: value.strip() != "" and "/" not in value, "a name, without a slash"),
    "batch_size": (lambda value: value >= 1, "at least 1 cell"),
    "part_size": (lambda value: value >= 1, "at least 1 cell"),
    "n_shots": (lambda value: value > 0, "above 0"),
    "lr": (lambda value: value >= 0, "a finite number of at least 0"),
    "weight_decay": (lambda value: value >= 0, "a finite number of at least 0"),
    "warmup_steps": (lambda value: value >= 0, "a whole number of at least 0"),
    "validation_size": (lambda value: 0 <= value < 1, "a share of at least 0 and below 1"),
    **dict.fromkeys(AT_LEAST_ONE, (lambda value: value >= 1, "at least 1")),
}


class _Names(dict[str, Any]):
    """Names in the hints of a module, those included that it imports for a type checker only."""

    def __init__(self, module: str) -> None:
        super().__init__()
        self.module = module

    def __missing__(self, name: str) -> Any:
        for place in (vars(sys.modules[self.module]), vars(builtins)):
            if name in place:
                return place[name]
        source, original = _for_typing(self.module)[name]
        if source in BY_CAPABILITY:
            return Any
        imported = importlib.import_module(source)
        return imported if original is None else getattr(imported, original)


@functools.cache
def _for_typing(module: str) -> dict[str, tuple[str, str | None]]:
    """Imports of a module under ``if TYPE_CHECKING``: name -> where it is from and its name there."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    guarded = [part for node in tree.body if isinstance(node, ast.If) for part in node.body]
    found: dict[str, tuple[str, str | None]] = {}
    for node in guarded:
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: (alias.name, None) for alias in node.names}
    return found


@functools.cache
def hints_of(thing: Any) -> dict[str, Any]:
    """Type hints of a function or a class by name, also where what they name is imported for typing only."""
    parts = reversed(thing.__mro__) if isinstance(thing, type) else [thing]
    return {
        name: eval(hint, {}, _Names(part.__module__)) if isinstance(hint, str) else hint  # noqa: S307  # our own source
        for part in parts
        for name, hint in inspect.get_annotations(part).items()
        if name != "return"
    }


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what a hint says."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in PLAIN:
        number = not isinstance(value, bool | np.bool_) or hint is bool
        finite = hint is not float or not isinstance(value, float | np.floating) or math.isfinite(value)
        return isinstance(value, PLAIN[hint][0]) and number and finite
    if origin is Annotated:
        return fits(value, parts[0]) and all(value in rule for rule in parts[1:] if isinstance(rule, Range))
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str | int | float | bool | None) and value in parts
    if origin is tuple and parts[-1] is not Ellipsis:
        return isinstance(value, tuple | list) and len(value) == len(parts) and all(map(fits, value, parts))
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        keys, values = parts
        return isinstance(value, origin) and _all_fit(value, keys) and _all_fit(value.values(), values)
    if isinstance(origin, type) and issubclass(origin, collections.abc.Iterable):
        return _iterates(value) and _all_fit(_looked_at(value), parts[0])
    if isinstance(hint, type) and hint is not Any and not getattr(hint, "_is_protocol", False):
        return isinstance(value, hint)
    return True


def _all_fit(values: Iterable[Any], hint: Any) -> bool:
    if hint is str:  # lists of genes are long, and all of one type
        return all(issubclass(kind, str) for kind in set(map(type, values)))
    return all(fits(value, hint) for value in values)


def _iterates(value: Any) -> bool:
    return isinstance(value, collections.abc.Iterable) and not isinstance(value, str | bytes)


def _looked_at(value: Any) -> Iterable[Any]:
    """What a collection holds; an iterator would be used up."""
    return [] if isinstance(value, collections.abc.Iterator) else value


def expected(hint: Any) -> str:
    """What a hint says, in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint in PLAIN:
        return PLAIN[hint][1]
    if origin is Annotated:
        return " ".join([expected(parts[0]), *(str(rule) for rule in parts[1:] if isinstance(rule, Range))])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(expected(part) for part in parts))
    if origin is Literal:
        return f"one of {quoted(parts)}"
    if isinstance(origin, type) and issubclass(origin, collections.abc.Mapping):
        return f"a dictionary (of each: {expected(parts[1])})"
    if isinstance(origin, type) and issubclass(origin, collections.abc.Iterable):
        return f"a list (of each: {expected(parts[0])})"
    return _named(hint) if isinstance(hint, type) and hint is not Any else "what its documentation says"


def shown(value: Any) -> str:
    """A value as a message shows it: names as plain text, large things by their type."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, str | bytes | bool | int | float | tuple | list | set | dict):
        text = repr(value)
        return text if len(text) <= N_CHARACTERS else f"{text[:N_CHARACTERS]}..."
    return _named(type(value))


def quoted(names: Iterable[object], most: int | None = None) -> str:
    """Names in a message, ``'a', 'b', ...``; "none" if there are none."""
    # Names out of an array are numpy's, and say so.
    listed = [name.item() if isinstance(name, np.generic) else name for name in names]
    shown = ", ".join(map(repr, listed[:most])) or "none"
    return shown + ", ..." if most is not None and len(listed) > most else shown


def require_column(table: Any, key: object, *, fix: str, name: str = "adata.obs") -> None:
    """Refuse a column that a table of a data set does not have; ``fix``: the argument that names it."""
    if key not in table.columns:
        msg = f"{name} has no column {key!r}; its columns: {quoted(table.columns)}. Pass one of them as {fix}."
        raise ValueError(msg)


def _named(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOUaeiou' else 'a'} {kind.__name__}"


def _keeps(rule: Callable[[Any], bool], value: Any) -> bool:
    return rule(value) if isinstance(value, str | int | float | np.number) else True


def checks_arguments(function: Function) -> Function:
    """Refuse arguments of other types than the signature says, with a ValueError, before anything else is done."""
    signature = inspect.signature(function)
    room = function.__module__.split(".")[1]
    *owner, name_of_it = function.__qualname__.split(".")

    def called(args: tuple[Any, ...]) -> str:
        # A method by the class that it was called on, which may have inherited it.
        of = [(args[0] if isinstance(args[0], type) else type(args[0])).__name__] if owner and args else owner
        return ".".join(["sf", room, *of, name_of_it])

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        hints = hints_of(function)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            msg = f"{called(args)}: {error}. Leave it out, or pass one of: {', '.join(signature.parameters)}."
            raise TypeError(msg) from None
        for name, value in given.items():
            hint, (rule, meaning) = hints.get(name, Any), RULES.get(name, (bool, ""))
            wanted = expected(hint) if not fits(value, hint) else "" if _keeps(rule, value) else meaning
            if wanted:
                caller, default = called(args), signature.parameters[name].default
                what = f"See help({caller})" if default is inspect.Parameter.empty else f"Default: {name}={default!r}"
                if isinstance(value, str) and fits([value], hint):
                    what = f"Pass a list: {name}=[{value!r}]"
                msg = f"{caller}: {name} must be {wanted}; got {shown(value)}. {what}."
                raise ValueError(msg)
        return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]
