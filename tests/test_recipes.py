"""The corpus that small weights are trained on: what is read, what is left out, and what is drawn of profiles."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import scfoundry as sf

sys.path.insert(0, str(Path(__file__).parents[1]))

from recipes.cards import filled
from recipes.command import save
from recipes.corpus import build, labelled, with_medians
from recipes.markers import marker_genes
from recipes.pseudo_cells import draw

B, T = "CL:0000236", "CL:0000084"
GENES = ["MS4A1", "CD79A", "CD3D", "CD3E", *[f"RPL{i}" for i in range(3, 20)], "no gene"]
STUDIES = """file\tlabels\tgroups\ttissue\tvalues\tuse\toverlaps\tlicence
blood\tkind\tsample\tblood\tcounts\ttrain\t\tCC BY 4.0
again\tkind\t\tblood\tlog2\ttrain\tblood\tMIT
kept\tkind\t\tblood\tcounts\tscore\t\tnone
means\tkind\t\tbody\tmeans\ttrain\t\tCC BY 4.0
"""
LABELS = f"set\tlabel\tterms\ttext\nblood\tBs\t{B}\t\nblood\tTs\t{T}\t\nblood\tline\t\ta cell line\nagain\tBs\t{B}\t\n"


def cells(n: int, name: str, seed: int) -> ad.AnnData:
    """A third each of B cells, T cells and a cell line, all with one gene that nobody knows."""
    kind = np.array(["Bs", "Ts", "line"])[np.arange(n) % 3]
    rates = np.ones((n, len(GENES)))
    rates[kind == "Bs", :2] += 20
    rates[kind == "Ts", 2:4] += 20
    counts = np.random.default_rng(seed).poisson(rates).astype(np.float32)
    obs = pd.DataFrame({"kind": kind, "sample": np.where(np.arange(n) < n // 2, "one", "two")})
    obs.index = [f"{name}{i}" for i in range(n)]
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    blood, again = cells(300, "cell", 0), cells(60, "other", 1)
    again.X.data = np.log2(again.X.data + 1)
    again.obs_names = [*blood.obs_names[:20], *again.obs_names[20:]]
    profiles = cells(3, "profile", 2)
    profiles.obs["source_file"], profiles.obs["tissue"] = ["Adult/Blood.RData"] * 3, "Blood"
    own = np.ones((1, len(GENES)), dtype=bool)
    own[0, 4] = False
    profiles.uns["measured"] = {"reference": np.array(["Adult__Blood"]), "genes_by_reference": own}
    for name, adata in {"blood": blood, "again": again, "kept": cells(30, "kept", 3), "means": profiles}.items():
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    (tmp_path / "studies.tsv").write_text(STUDIES)
    (tmp_path / "labels.tsv").write_text(LABELS)
    (tmp_path / "labels.json").write_text(json.dumps({"means": {"Bs": {"cl_id": B}, "line": {"cl_id": None}}}))
    return tmp_path


def test_cells_are_sampled_by_type_and_keep_what_their_label_stands_for(folder: Path) -> None:
    corpus, manifest = build(folder, tables=folder, max_cells=40, cells_per_profile=5)
    by_study = corpus.obs.groupby("study", observed=True)["cell_type"].value_counts()
    assert by_study["blood"].to_dict() == {B: 40, T: 40, "a cell line": 40}
    assert by_study["Adult__Blood"].to_dict() == {B: 5}
    assert set(corpus.obs.loc[corpus.obs["study"] == "blood", "sample"]) == {"blood/one", "blood/two"}
    assert [entry["file"] for entry in manifest] == ["blood.h5ad", "means.h5ad", "again.h5ad"]
    assert all(len(entry["sha256"]) == 64 for entry in manifest)
    assert labelled(corpus).n_obs == sum(entry["labelled"] for entry in manifest) < corpus.n_obs


def test_cells_that_two_files_share_count_once(folder: Path) -> None:
    corpus, _ = build(folder, tables=folder)
    assert (corpus.obs["study"] == "again").sum() == 40
    assert not np.any(corpus.X.data % 1)


def test_studies_are_held_out_with_those_that_share_their_cells(folder: Path) -> None:
    corpus, manifest = build(folder, tables=folder, hold_out=["blood"])
    assert set(corpus.obs["study"]) == {"Adult__Blood"}
    assert len(manifest) == 1
    with pytest.raises(ValueError, match=r"hold_out names nothing, which studies\.tsv does not list"):
        build(folder, tables=folder, hold_out=["nothing"])


def test_profiles_show_no_gene_that_their_reference_did_not_measure(folder: Path) -> None:
    corpus, _ = build(folder, tables=folder)
    drawn = corpus[(corpus.obs["values"] == "means").to_numpy()]
    assert not drawn.varm["measured"]["Adult__Blood"][drawn.var["symbol"] == GENES[4]].any()
    assert not drawn[:, (drawn.var["symbol"] == GENES[4]).to_numpy()].X.sum()


def test_drawn_cells_are_like_their_profile_on_average() -> None:
    shares = np.arange(100.0)[None]
    counts = draw(shares, shares[0], 400, np.random.default_rng(0)).toarray()
    mean = (counts / counts.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(mean, shares[0] / shares.sum(), atol=2e-3)
    assert counts.sum(1).min() >= 800
    assert not counts[:, 0].any()


def test_markers_are_what_a_type_alone_expresses(folder: Path, tmp_path: Path) -> None:
    corpus, _ = build(folder, tables=folder, cells_per_profile=40)
    table = tmp_path / "markers.tsv"
    table.write_text("id\ttype\tmarkers\nCL:0002204\ttuft cell\tPOU2F3 nonsense\n")
    symbols = corpus.var["symbol"]
    found = {i: set(symbols[ids]) for i, ids in marker_genes(corpus, listed=table).items()}
    assert {"MS4A1", "CD79A"} <= found[B]
    assert {"CD3D", "CD3E"} <= found[T]
    assert not found[B] & {"CD3D", "CD3E"}
    assert not found[T] & {"MS4A1", "CD79A"}
    assert found["CL:0002204"] == {"POU2F3"}


def test_medians_are_those_of_whole_transcriptomes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.corpus.WHOLE", 10)
    corpus, _ = build(folder, tables=folder)
    genes = with_medians(corpus)
    assert len(genes) == corpus.n_vars
    assert np.isfinite(genes.medians).all()


def test_a_card_names_every_file_with_its_licence(folder: Path, tmp_path: Path) -> None:
    _, manifest = build(folder, tables=folder)
    card = tmp_path / "card.md"
    card.write_text("# Card\n\n{data}\n")
    text = filled(card, manifest)
    assert "| `again` | blood | log2 | 40 |" in text
    assert text.count("CC BY 4.0") == 2


def test_weights_are_saved_with_their_card_to_read_more_than_they_were_trained_on(folder: Path, tmp_path: Path) -> None:
    _, manifest = build(folder, tables=folder)
    tiny = {"n_hidden": 8, "n_layers": 1, "n_heads": 2, "n_intermediate": 8, "max_length": 4}
    model = sf.model.Celler(genes=[f"ENSG{i:011d}" for i in range(9)], **tiny)
    save(model, tmp_path / "out", {"max_length": 8}, manifest=manifest, trained_on="cells")
    assert sf.model.load_pretrained(tmp_path / "out").config.max_length == 8
    assert "| `again` | blood | log2 | 40 |" in (tmp_path / "out" / "README.md").read_text()
