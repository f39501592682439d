"""The shell's commands: files in, files out, with the options of the functions."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse
from typer.main import get_command

import scfoundry as sf
from scfoundry import cli

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GENES = ["CD3E", "MS4A1", "LYZ", "NKG7", "GAPDH", "CD8A"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Twelve cells of counts, with and without types."""
    counts = np.random.default_rng(0).poisson(2, (12, len(GENES))).astype(np.float32)
    adata = ad.AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame({"cell_type": ["B", "T"] * 6}, map(str, range(12))))
    adata.var_names = GENES
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a command as the shell does; its exit code."""

    def run(*words: object) -> int:
        monkeypatch.setattr("sys.argv", ["scfoundry", "--verbosity", "error", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.run()
        sf.settings.verbosity = "info"
        return int(end.value.code or 0)

    return run


@pytest.mark.parametrize("verb", cli.VERBS)
def test_options_have_the_names_and_defaults_of_the_function(verb: str) -> None:
    command = get_command(cli.app).commands[cli.VERBS[verb][0]]  # type: ignore[attr-defined]
    options = {option.name: option for option in command.params}
    left_out = []
    for argument in inspect.signature(getattr(sf.tl, verb)).parameters.values():
        if argument.name not in options:
            left_out.append(argument.name)
        elif argument.default is inspect.Parameter.empty:
            assert options[argument.name].required
        else:
            assert options[argument.name].default == argument.default
    assert set(left_out) <= {"copy", "return_fitted", "markers", "parents"}


def test_every_command_explains_itself(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for name, example in cli.VERBS.values():
        assert call(name, "--help") == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert f"Example: scfoundry {name} {example}" in shown
        assert "`" not in shown


def test_embed_writes_what_the_function_does(file: Path, call: Callable[..., int]) -> None:
    target, before = file.with_name("embedded.h5ad"), file.read_bytes()
    assert call("embed", file, target, "--adapt", "none", "--model", "cellplm") == 0
    expected = sf.tl.embed(ad.read_h5ad(file), "cellplm", adapt=None, copy=True)
    np.testing.assert_array_equal(ad.read_h5ad(target).obsm["X_cellplm"], expected.obsm["X_cellplm"])
    assert file.read_bytes() == before
    assert sorted(path.name for path in file.parent.iterdir()) == ["cells.h5ad", "embedded.h5ad"]


def test_labels_from_a_file_and_a_number_where_one_may_be(file: Path, call: Callable[..., int]) -> None:
    labels = file.with_name("labels.txt")
    labels.write_text("B cell\n\nT cell\n")
    assert call("zero-shot", file, file.with_name("named.zarr"), "--texts", labels, "--unknown", "0.5") == 0
    found = ad.read_zarr(file.with_name("named.zarr"))
    assert found.obsm["zero_shot_scores"].columns.tolist() == ["B cell", "T cell"]
    assert found.uns["zero_shot"]["params"]["unknown"] == 0.5


def test_annotate_learns_from_a_reference(file: Path, call: Callable[..., int]) -> None:
    target = file.with_name("named.h5ad")
    assert call("annotate", file, target, "--reference", file, "--labels-key", "cell_type", "--no-transductive") == 0
    assert set(ad.read_h5ad(target).obs["annotation"]) <= {"B", "T"}


@pytest.mark.parametrize("kind", ["cells.zarr", "cells.h5mu", "tenx"])
def test_kinds_of_files(kind: str, file: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    adata, path = ad.read_h5ad(file), file.with_name(kind)
    if kind == "tenx":
        path.mkdir()
        io.mmwrite(path / "matrix.mtx", sparse.coo_matrix(adata.X.T))
        pd.DataFrame({"id": GENES, "name": GENES}).to_csv(path / "genes.tsv", sep="\t", header=False, index=False)
        pd.Series(adata.obs_names).to_csv(path / "barcodes.tsv", sep="\t", header=False, index=False)
    elif kind == "cells.zarr":
        adata.write_zarr(path)
    else:
        mudata.MuData({"rna": adata}).write(path)
    assert call("check", path) == 0
    assert "data    12 cells, 6 genes\nvalues  raw counts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cells.h5ad", "cells.h5ad"), "is the input, which is never overwritten"),
        (("cells.h5ad", "embedded.csv"), "Name it embedded.h5ad"),
        (("missing.h5ad", "embedded.h5ad"), "There is no"),
        (("labels.txt", "embedded.h5ad"), "none of the kinds of files that are read: .h5ad"),
        (("cells.h5ad", "embedded.h5ad", "--layer", "counts"), "adata.layers has no 'counts'"),
        (("cells.h5ad", "embedded.h5ad", "--model", "cellpml"), "No weights 'cellpml'"),
    ],
)
def test_what_is_refused_is_said_in_a_line_and_nothing_is_written(
    words: tuple[str, ...], message: str, file: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = file.parent
    (folder / "labels.txt").write_text("B cell")
    before = sorted(folder.iterdir())
    assert call("embed", *(folder / word for word in words[:2]), *words[2:]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
    assert sorted(folder.iterdir()) == before


def test_exit_codes(
    file: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled = ad.read_h5ad(file)
    scaled.X = scaled.X.toarray() - 1
    scaled.write_h5ad(file.with_name("scaled.h5ad"))
    assert call("check", file.with_name("scaled.h5ad")) == 1
    assert "not ready" in capsys.readouterr().out
    assert call("embed", file) == 2
    assert call("embed", file, file.with_name("new.h5ad"), "--batch-size", "many") == 2

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "read", interrupted)
    assert call("embed", file, file.with_name("new.h5ad")) == 130
    assert not file.with_name("new.h5ad").exists()


def test_scores_are_written_as_a_table_and_a_picture(
    file: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    scores = pd.DataFrame({"bio conservation": [0.75, 0.5], "total": [0.625, 0.25]}, index=["celler-mini", "PCA"])
    monkeypatch.setattr(sf.tl, "benchmark", lambda adata, models, **how: (asked.update(how, models=models), scores)[1])
    target = file.with_name("scores.csv")
    words = ("--label-key", "cell_type", "--models", "celler", "--models", "cellplm", "--baselines", "pca")
    assert call("benchmark", file, target, *words) == 0
    assert "0.625" in capsys.readouterr().out
    pd.testing.assert_frame_equal(pd.read_csv(target, index_col=0), scores)
    assert target.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert (asked["models"], asked["label_key"], asked["baselines"]) == (["celler", "cellplm"], "cell_type", ["pca"])
    assert call("benchmark", file, file.with_name("scores.txt"), *words) == 1
    assert "Name it scores.csv" in capsys.readouterr().err


def test_models_and_conversion(file: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("models") == 0
    assert "scpalm-mini" in capsys.readouterr().out
    folder = file.with_name("converted")
    assert call("convert", "celler-mini", folder) == 0
    assert sf.model.load_pretrained(folder).provenance["weights"] == "celler-mini"
    assert call("convert", "celler-mini", folder) == 1


def test_a_page_is_written_with_the_name_of_the_file(file: Path, call: Callable[..., int]) -> None:
    target, before = file.with_name("report.html"), file.read_bytes()
    assert call("report", file, target) == 0
    assert "<h1>cells</h1>" in target.read_text()
    assert call("report", file, file) == 1
    assert file.read_bytes() == before
