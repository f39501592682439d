"""The wheel that users get: its name, what is in it, and that it is small enough to ship."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import venv
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
    return folder / run(words, ROOT).split()[-1]


def run(words: list[str], folder: Path) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    return done.stdout


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


def test_the_lines_of_the_readme_run_where_the_wheel_is_installed(wheel: Path, tmp_path: Path) -> None:
    """In an environment that has the dependencies, of this one, and not the repository."""
    venv.create(tmp_path / "env", with_pip=False, symlinks=True)
    python = tmp_path / "env" / "bin" / "python"
    packages = next((tmp_path / "env" / "lib").glob("python3*")) / "site-packages"
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    installer = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    run([*installer, str(wheel)], tmp_path)
    lines = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    ours = lines.partition("\nsc.pp.neighbors")[0]
    assert "sf.tl.embed" in ours
    assert "sf.tl.zero_shot_annotate" in ours
    end = "print(sf.__file__, adata.obsm['X_cellplm'].shape, adata.obs['zero_shot'].nunique())"
    (tmp_path / "readme.py").write_text(f"{ours}\n{end}\n")
    file, *found = run([str(python), "readme.py"], tmp_path).splitlines()[-1].split()
    assert Path(file).is_relative_to(packages)
    assert found[:1] == ["(700,"]
    assert int(found[-1]) >= 4
    assert run([str(python.with_name("scfoundry")), "--version"], tmp_path) == f"scfoundry {sf.__version__}\n"


def test_the_sdist_holds_what_the_tests_need(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "src/scfoundry/_version.py"} <= names
    assert {f"tests/{path.relative_to(ROOT / 'tests')}" for path in (ROOT / "tests").rglob("*.py")} <= names
