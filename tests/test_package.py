"""The wheel that users get: its name, what is in it, and that it is small enough to ship."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

import scfoundry as sf

ROOT = Path(__file__).parents[1]
pytest.importorskip("hatchling", reason="builds with hatchling, of the test group")
BUILD = "import sys; from hatchling.build import build_{0} as build; print(build(sys.argv[1]))"


def build(kind: str, folder: Path) -> Path:
    words = [sys.executable, "-c", BUILD.format(kind), str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


def test_the_wheel_is_named_and_small(wheel: Path) -> None:
    assert wheel.name == f"scfoundry_models-{sf.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size < 60e6
    with zipfile.ZipFile(wheel) as files:
        info = f"scfoundry_models-{sf.__version__}.dist-info"
        metadata = message_from_bytes(files.read(f"{info}/METADATA"))
        assert (metadata["Name"], metadata["Version"]) == ("scfoundry-models", sf.__version__)
        assert files.read(f"{info}/entry_points.txt").decode().split() == [
            "[console_scripts]",
            "scfoundry",
            "=",
            "scfoundry.cli:run",
        ]


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "src" / "scfoundry"
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"scfoundry/{path.relative_to(package)}" for path in files} == {n for n in names if ".dist-info/" not in n}


def test_the_sdist_holds_what_the_tests_need(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "src/scfoundry/_version.py"} <= names
    assert {f"tests/{path.relative_to(ROOT / 'tests')}" for path in (ROOT / "tests").rglob("*.py")} <= names
