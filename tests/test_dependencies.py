"""What the package imports is what it declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import scfoundry

PACKAGE = Path(scfoundry.__file__).parent
PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def plain(name: str) -> str:
    return re.split(r"[\[<>=!~; ]", name)[0].lower().replace("_", "-")


def test_every_import_is_declared() -> None:
    project = tomllib.loads(PROJECT.read_text())["project"]
    optional = [name for names in project["optional-dependencies"].values() for name in names]
    declared = {plain(name) for name in [*project["dependencies"], *optional]}
    imported: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"scfoundry"}
    of_module = packages_distributions()
    undeclared = {name for name in others if not declared & {plain(found) for found in of_module.get(name, [name])}}
    assert undeclared == set()
    # Read by LangCell's text encoder, and required for it alone.
    assert "transformers" in others & declared


RECIPE = PROJECT.parent / "packaging" / "conda" / "recipe.yaml"
# What conda-forge calls them.
CONDA = {
    "torch": "pytorch",
    "igraph": "python-igraph",
    "matplotlib": "matplotlib-base",
    "huggingface-hub": "huggingface_hub",
}


@pytest.mark.skipif(not RECIPE.exists(), reason="an sdist has no recipe")
def test_the_conda_recipe_asks_for_the_same_packages_and_versions() -> None:
    project = tomllib.loads(PROJECT.read_text())["project"]
    asked = {re.split(r"[<>=!~]", text)[0]: text.replace(" ", "") for text in project["dependencies"]}
    expected = {CONDA.get(name, name) + text.removeprefix(name) for name, text in asked.items()}
    recipe = RECIPE.read_text()
    run = recipe.partition("  run:\n")[2].partition("\n\n")[0]
    found = {line.strip().removeprefix("- ").replace(" ", "") for line in run.splitlines()}
    assert found == expected | {"python>=${{python_min}}"}
    assert f'version: "{scfoundry.__version__}"' in recipe
