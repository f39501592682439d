"""Results are written all or none, and none that cannot be right."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from cases import SmallModel, contents, same
from scipy import sparse

import scfoundry as sf
from scfoundry._compat import layer_names
from scfoundry.data import slots
from scfoundry.data.slots import write

RESULTS = {
    "obs/label": pd.Categorical(["a", "b", "a"]),
    "obs/score": np.ones(3, dtype=np.float32),
    "obsm/scores": pd.DataFrame(np.ones((3, 2)), index=list("xyz"), columns=["a", "b"]),
    "layers/denoised": sparse.csr_matrix((3, 2)),
    "obs/old": None,
    "uns/label": {"params": {}},
}


@pytest.fixture
def adata():
    adata = AnnData(np.zeros((3, 2)), obs=pd.DataFrame({"label": ["q", "q", "r"], "old": 1}, index=list("xyz")))
    adata.uns["label"] = {"params": {"of": "before"}}
    return adata


def test_all_is_written_and_what_is_none_taken_away(adata):
    write(adata, RESULTS, caller="sf.tl.verb")
    assert set(adata.obs) == {"label", "score"}
    assert (list(adata.obsm), layer_names(adata), adata.uns["label"]) == (["scores"], ["denoised"], {"params": {}})


@pytest.mark.parametrize("at", range(len(RESULTS)))
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("view", [False, True])
def test_whatever_ends_it_leaves_everything_as_it_was(adata, at, error, view, monkeypatch):
    before = contents(adata)
    given = adata[:] if view else adata
    put, left = slots._put, iter(range(at, -1, -1))

    def fail(data, address, value):
        put(data, address, value)
        if next(left, None) == 0:
            raise error

    monkeypatch.setattr(slots, "_put", fail)
    with pytest.raises(error):
        write(given, RESULTS, caller="sf.tl.verb")
    same(contents(given), before)


@pytest.mark.parametrize("address", ["obs/score", "obsm/scores", "layers/denoised"])
def test_what_is_not_finite_is_refused_and_nothing_written(adata, address):
    before = contents(adata)
    wrong = {"obs/score": np.array([1, np.nan, 2]), "obsm/scores": np.full((3, 2), np.inf)}
    wrong["layers/denoised"] = sparse.csr_matrix([[np.nan, 0], [0, 0], [0, 1]])
    with pytest.raises(ValueError, match=r"sf.tl.verb: \d+\.\d+% of adata\.\w+\[\w+\] would be NaN or infinite"):
        write(adata, RESULTS | {address: wrong[address]}, caller="sf.tl.verb")
    same(contents(adata), before)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_an_embedding_that_means_nothing_is_refused(make_adata, value):
    adata = make_adata(20, 30)
    model = SmallModel(adata.var_names)
    model.projection[:] = value
    message = r"all 20 cells have the same embedding, though" if value == 0 else r"% of the embedding would be NaN"
    with pytest.raises(ValueError, match=rf"sf.tl.embed: .*{message}"):
        sf.tl.embed(adata, model=model, adapt=None)
    assert not adata.obsm.keys() & {"X_small"}
