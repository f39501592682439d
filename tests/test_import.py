"""`import scfoundry` is cheap, and everything is where tab completion looks for it."""

import json
import subprocess
import sys
import timeit
from pathlib import Path

import pytest

import scfoundry as sf
from scfoundry._distribution import refuse_mixed_files

NAMESPACES = {"pp", "tl", "pl", "model", "tasks", "metrics", "datasets"}


def run(code):
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    return json.loads(result.stdout)


def test_import_takes_little_time_and_no_heavy_package():
    """Best of three, in CPU time: a busy machine must not fail it."""
    code = """
import json, sys, time
start = time.process_time()
import scfoundry
seconds = time.process_time() - start
heavy = [name for name in ("torch", "scvi", "scanpy", "transformers", "anndata", "pandas") if name in sys.modules]
print(json.dumps([seconds, heavy]))
"""
    results = [run(code) for _ in range(3)]
    assert min(seconds for seconds, _ in results) < 0.15
    assert all(heavy == [] for _, heavy in results)


def test_settings_and_listing_stay_light():
    code = """
import json, sys
import scfoundry as sf
sf.settings.verbosity = "error"
names = {space: dir(getattr(sf, space)) for space in ("pp", "tl", "pl", "model", "tasks", "metrics", "datasets")}
print(json.dumps([names, [name for name in ("torch", "scvi", "scanpy", "transformers") if name in sys.modules]]))
"""
    names, heavy = run(code)
    assert "embed" in names["tl"]
    assert "CellPLM" in names["model"]
    assert heavy == []


def test_dir_lists_what_is_public():
    assert set(dir(sf)) >= NAMESPACES | {"settings", "__version__"}
    for name in NAMESPACES:
        namespace = getattr(sf, name)
        assert set(namespace.__all__) <= set(dir(namespace))
        for public in namespace.__all__:
            assert getattr(namespace, public).__doc__, f"sf.{name}.{public}"


def test_unknown_names_raise_attribute_errors():
    with pytest.raises(AttributeError, match="embedd"):
        sf.tl.embedd  # noqa: B018


def test_settings_refuse_unknown_values():
    with pytest.raises(ValueError, match="verbosity must be one of error, warning, info, debug; got 'loud'"):
        sf.settings.verbosity = "loud"


def test_progress_can_be_switched_off_by_itself():
    sf.settings.show_progress = False
    try:
        assert (sf.settings.show_progress, sf.settings.verbosity) == (False, "info")
    finally:
        sf.settings.show_progress = True
    assert sf.settings.show_progress


def test_weights_run_without_what_only_training_needs():
    """scvi-tools with Pyro and Lightning, transformers, matplotlib, torch's compiler take longer than cells."""
    code = """
import json, sys
import numpy as np
from anndata import AnnData
import scfoundry as sf
from scfoundry.model._load import load_weights
from scfoundry.model._pretrained import DEFAULTS
sf.settings.verbosity = "error"
loaded = {}
def look(what):
    heavy = ("scvi", "pyro", "lightning", "transformers", "matplotlib", "scanpy", "sklearn", "torch._dynamo", "sympy")
    loaded[what] = [name for name in heavy if name in sys.modules]
for name in DEFAULTS:
    genes = load_weights(name).genes.ids[:400]
    adata = AnnData(np.random.default_rng(0).poisson(1, (20, 400)).astype(np.float32))
    adata.var_names = genes
    sf.tl.embed(adata, model=name)
    look(name)
sf.tl.zero_shot_annotate(adata, ["B cell", "monocyte"])
sf.pp.bin_expression(adata)
sf.pp.check(adata)
look("zero_shot_annotate")
print(json.dumps(loaded))
"""
    assert set(map(tuple, run(code).values())) == {()}


def test_models_are_those_of_scvi_tools():
    from scvi.model.base import BaseModelClass

    assert issubclass(sf.model.FoundationModel, BaseModelClass)
    for name in sf.model.__all__:
        public = getattr(sf.model, name)
        if isinstance(public, type) and not name.endswith("Config"):
            assert issubclass(public, sf.model.FoundationModel)
            assert public.__name__ == name
    model = sf.model.load_pretrained("cellplm")
    assert type(model) is sf.model.CellPLM


@pytest.fixture
def installed(tmp_path):
    """A folder of installed packages, ours among them; a function that imports it from there."""
    (tmp_path / "scfoundry").symlink_to(Path(sf.__file__).parent, target_is_directory=True)
    (tmp_path / "scfoundry_models-0.1.0.dist-info").mkdir()
    (tmp_path / "scfoundry_models-0.1.0.dist-info" / "RECORD").write_text("scfoundry/__init__.py,,\n")

    def load():
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import scfoundry; print(scfoundry.__version__)"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603

    return tmp_path, load


def test_files_of_the_other_project_of_that_name_among_ours_are_refused(installed):
    folder, load = installed
    assert load().stdout.strip() == sf.__version__
    other = folder / "scfoundry-0.4.2.dist-info"
    other.mkdir()
    (other / "RECORD").write_text("__editable__.scfoundry.pth,,\nscfoundry-0.4.2.dist-info/METADATA,,\n")
    assert load().stdout.strip() == sf.__version__
    (other / "RECORD").write_text("scfoundry-0.4.2.dist-info/METADATA,,\nscfoundry/cli.py,,\n")
    failed = load()
    assert failed.returncode != 0
    assert "PyPI's scfoundry 0.4.2, an unrelated project" in failed.stderr
    assert "pip uninstall -y scfoundry scfoundry-models; pip install scfoundry-models" in failed.stderr


def test_the_look_for_them_takes_no_time(tmp_path):
    for i in range(500):
        (tmp_path / f"package_{i}-1.0.dist-info").mkdir()
    seconds = min(timeit.repeat(lambda: refuse_mixed_files(tmp_path), number=1, repeat=10))
    assert seconds < 0.002
