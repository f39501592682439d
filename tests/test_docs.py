"""Every public name has an entry in the reference, and the reference lists nothing else."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import scfoundry as sf
from scfoundry._settings import Settings

API = Path(__file__).parents[1] / "docs" / "api"
PAGES = {
    module[1]: page
    for page in sorted(API.glob("*.md"))
    if (module := re.search(r"currentmodule:: (\S+)", page.read_text()))
}


def listed(page: Path) -> list[str]:
    return re.findall(r"^ {3}(\w+)$", page.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("namespace", sorted(set(sf.__all__) - {"__version__", "settings"}))
def test_every_namespace_with_public_names_has_a_page(namespace: str) -> None:
    names = [name for name in dir(getattr(sf, namespace)) if not name.startswith("_")]
    assert not names or f"scfoundry.{namespace}" in PAGES


@pytest.mark.parametrize("module", PAGES)
def test_a_page_lists_the_public_names_of_its_module(module: str) -> None:
    assert sorted(listed(PAGES[module])) == sorted(importlib.import_module(module).__all__)


def test_every_page_is_in_the_table_of_contents() -> None:
    toctree = set(re.findall(r"^(\w+)$", (API / "index.md").read_text(), flags=re.MULTILINE))
    assert toctree == {page.stem for page in API.glob("*.md")} - {"index"}


def test_every_setting_is_explained() -> None:
    page = (API / "settings.md").read_text()
    public = [name for name in vars(Settings) if not name.startswith("_")]
    assert re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE) == public
