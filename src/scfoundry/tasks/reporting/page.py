"""The page: everything in one file, no line of it from elsewhere, all texts escaped."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["page"]


def page(**content: Any) -> str:
    """HTML of the report; a text of the data is shown as it is, whatever it holds."""
    return _template().render(content)


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda share: f"{share:.0%}" if share >= 0.01 or not share else "< 1%"
    return environment.from_string(files("scfoundry.tasks.reporting").joinpath("page.html").read_text("utf-8"))
