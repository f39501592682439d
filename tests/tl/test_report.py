"""A page that holds everything, shows texts as they are, and is written whole or not at all."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from cases import contents, same
from matplotlib import image
from scipy import sparse
from scipy.stats import ttest_ind

import scfoundry as sf
from scfoundry.tasks.reporting.names import markers_of

EVIL = '<script>alert("cells")</script>'


class Page(HTMLParser):
    """Tags with their attributes, and texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style" and data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def text(self):
        return " ".join(self.texts)


@pytest.fixture
def named(make_adata):
    """Cells with an embedding and names, one of which is a script; the last ten are unknown and express one gene."""
    adata = make_adata(60)
    counts = adata.X.toarray()
    counts[50:, 7] = 60
    adata.X = sparse.csr_matrix(counts)
    sf.tl.embed(adata, sf.model.CellPLM(genes=adata.var_names[:30], n_hidden=16, n_latent=4), device="cpu")
    labels = np.array(["B cell", EVIL])[np.arange(60) % 2].astype(object)
    labels[50:] = "unknown"
    adata.obs["annotation"] = pd.Categorical(labels)
    adata.obs["annotation_score"] = np.where(np.arange(60) % 2, 0.4, 0.9).astype(np.float32)
    adata.uns["annotation"] = adata.uns["cellplm"] | {
        "verb": "sf.tl.annotate",
        "units": "probability",
        "warning": "read <this>",
        "params": {"labels_key": EVIL},
    }
    return adata


def rows_of(page, heading):
    """Texts after a heading."""
    return page.texts[page.texts.index(heading) + 1 :]


def test_the_page_holds_everything_and_runs_nothing(named, tmp_path):
    path = sf.tl.report(named, tmp_path / "report.html", title=EVIL)
    page = Page(path)
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "form"})
    addresses = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href")]
    assert len(addresses) == 1
    assert all(address.startswith("data:image/png;base64,") for address in addresses)
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "url(" not in path.read_text()
    assert page.texts.count(EVIL) >= 4  # title, heading, legend of the picture, row of the table
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_it_says_what_was_read_done_and_found(named, tmp_path):
    page = Page(sf.tl.report(named, tmp_path / "report.html", model=sf.model.CellPLM(genes=named.var_names[:30])))
    assert "raw counts" in page.text
    assert "30 of 40 known (ensembl 30)" in page.text
    assert "sf.tl.embed in cellplm" in page.text
    assert "sf.tl.annotate in annotation" in page.text
    assert "read <this>" in page.text
    assert "coordinates without unit" in page.text
    assert named.uns["cellplm"]["provenance"]["citation"] in page.text
    at = page.texts.index("At least 0.5")
    assert page.texts[at + 1 : at + 6] == [EVIL, "25", "42%", "0.40", "0%"]
    assert page.texts[at + 6 : at + 11] == ["B cell", "25", "42%", "0.90", "100%"]
    assert page.texts[at + 11 : at + 14] == ["unknown", "10", "17%"]
    assert rows_of(page, "In others")[0] == named.var_names[7]
    assert "first two principal components of X_cellplm" in page.text


def test_markers_are_those_of_a_t_test(named):
    unknown = (named.obs["annotation"] == "unknown").to_numpy()
    found = markers_of(named, unknown, layer=None, n=99)
    counts = named.X.toarray().astype(float)
    log = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    t = pd.Series(ttest_ind(log[unknown], log[~unknown], equal_var=False).statistic, index=named.var_names)
    np.testing.assert_allclose(found["t"], t[found.index], rtol=1e-6)
    share = pd.Series((counts[unknown] > 0).mean(0), index=named.var_names)
    assert set(found.index) == set(t.index[(t > 0) & (share >= 0.25)])
    assert found["t"].is_monotonic_decreasing
    assert markers_of(named, np.arange(60) < 2, layer=None, n=9) is None


def test_the_picture_is_drawn_where_the_umap_is(named, tmp_path):
    named.obsm["X_umap"] = np.column_stack([np.repeat([0.0, 10.0], 30), np.zeros(60)])
    page = Page(sf.tl.report(named, tmp_path / "report.html"))
    data = next(attrs["href"] for tag, attrs in page.tags if tag == "image").partition(",")[2]
    pixels = image.imread(io.BytesIO(base64.b64decode(data)))
    columns = np.flatnonzero(pixels[..., 3].any(axis=0)) / pixels.shape[1]
    assert set((columns > 0.5).tolist()) == {True, False}
    assert columns.min() < 0.05
    assert columns.max() > 0.95
    assert not np.any((columns > 0.1) & (columns < 0.9))
    assert pixels[0, 0, 3] == 0
    with pytest.raises(ValueError, match=r"no 'X_tsne'; its keys: .*'X_umap'"):
        sf.tl.report(named, tmp_path / "other.html", basis="X_tsne")


def test_data_are_only_read_wherever_they_are(named, tmp_path):
    before = contents(named)
    expected = Page(sf.tl.report(named, tmp_path / "a.html")).texts
    same(contents(named), before)
    named.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert Page(sf.tl.report(backed, tmp_path / "b.html")).texts == expected
    mdata = mudata.MuData({"rna": named})
    assert Page(sf.tl.report(mdata, tmp_path / "c.html")).texts == expected


def test_without_results_it_says_what_would_be_read(make_adata, tmp_path):
    adata = make_adata()
    model = sf.model.CellPLM(genes=adata.var_names[:30], n_hidden=16, n_latent=4)
    page = Page(sf.tl.report(adata, tmp_path / "report.html", model=model))
    assert "Nothing yet" in page.text
    assert "30 of 40 known" in page.text
    adata.X = adata.X.toarray() - 1
    assert "Refused" in Page(sf.tl.report(adata, tmp_path / "report.html", model=model)).texts


def test_an_interrupted_page_leaves_the_old_one(named, tmp_path, monkeypatch):
    path = sf.tl.report(named, tmp_path / "report.html")
    before = path.read_bytes()
    write = Path.write_text

    def half(self, text, **how):
        write(self, text[:100], **how)
        raise OSError("no space left")  # noqa: EM101

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="no space left"):
        sf.tl.report(named, path, title="new")
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_what_is_no_page_is_refused(named, tmp_path):
    cells = tmp_path / "cells.h5ad"
    named.write_h5ad(cells)
    before = cells.read_bytes()
    with pytest.raises(ValueError, match=r"Name it cells\.html"):
        sf.tl.report(named, cells)
    assert cells.read_bytes() == before
    with pytest.raises(ValueError, match="no names 'zero_shot' with a probability; it has 'annotation'"):
        sf.tl.report(named, tmp_path / "report.html", keys="zero_shot")
    with pytest.raises(ValueError, match=r"adata\.layers has no 'nope'.*leave out layer"):
        sf.tl.report(named, tmp_path / "report.html", layer="nope")
    with pytest.raises(ValueError, match=r"the folder of .*cells\.h5ad/report\.html cannot be made"):
        sf.tl.report(named, cells / "report.html")


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the browser Chromium")
@pytest.mark.parametrize(("scheme", "dark"), [(0, True), (1, False)], ids=["dark", "light"])
def test_a_browser_shows_it_in_light_and_dark_without_sideways_scrolling(named, tmp_path, scheme, dark):
    path = sf.tl.report(named, tmp_path / "report.html")
    picture = tmp_path / "shot.png"
    options = (
        f"--headless --no-sandbox --disable-gpu --disable-background-networking --user-data-dir={tmp_path}/profile"
    )
    options += f" --blink-settings=preferredColorScheme={scheme} --window-size=390,2400 --screenshot={picture}"
    subprocess.run(["chromium", *options.split(), path.as_uri()], check=True, capture_output=True, timeout=120)  # noqa: S603, S607
    pixels = image.imread(picture)[..., :3]
    paper = pixels[2, 2]
    assert (paper.mean() < 0.5) == dark
    # The margin stays free from top to bottom.
    np.testing.assert_allclose(pixels[:, :12], np.broadcast_to(paper, pixels[:, :12].shape), atol=0.02)
    assert np.abs(pixels - paper).max() > 0.5
