"""What the shared tests run: tiny models, small data, and results as tables that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr
from anndata import AnnData, read_h5ad
from anndata.experimental import read_lazy
from anndata.io import sparse_dataset
from mudata import MuData
from scipy import sparse
from torch.nn.modules.module import register_module_forward_pre_hook

import scfoundry as sf
from scfoundry._device import Compute
from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.matrix.cells import Cells
from scfoundry.data.matrix.log_normalisation import log_cp10k
from scfoundry.tasks.cell_attention.attend import attend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cell", "type", ":", ".", "a", "of", "b", "monocyte", "lineage"]


class SmallModel:
    """The least that a model is: log-normalised counts times a fixed matrix."""

    def __init__(self, genes: Any, n_latent: int = 8) -> None:
        self.genes = genes if isinstance(genes, GeneVocabulary) else GeneVocabulary(genes)
        self.projection = np.random.default_rng(0).normal(size=(len(self.genes), n_latent))

    @property
    def provenance(self) -> dict[str, Any]:
        return {"model": "small", "weights": "small", "citation": "none", "versions": {"numpy": np.__version__}}

    def embed(self, cells: Cells, compute: Compute) -> NDArray[np.float32]:
        return np.vstack([log_cp10k(block) @ self.projection for block in cells.blocks()]).astype(np.float32)


class SmallTokeniser(SmallModel):
    """Eight tokens, each by the sign of a projection one of two of five codes; a sixth code is never used."""

    n_codes = 6

    def pathway_codes(self, counts: sparse.csr_matrix, compute: Compute) -> NDArray[np.int64]:
        return (np.arange(8) + 2 * (log_cp10k(counts) @ self.projection > 0)) % 5


def _cellplm(genes: Any, latent: str = "vae") -> sf.model.CellPLM:
    structure = {"n_hidden": 16, "n_layers": 2, "n_latent": 4, "n_decoder_hidden": 16, "n_bottleneck": 8}
    return sf.model.CellPLM(genes=genes, latent=latent, library_size="cp10k", **structure)


def _langcell(genes: Any) -> sf.model.LangCell:
    sizes = {"n_hidden": 16, "n_layers": 1, "n_heads": 2, "n_intermediate": 16, "n_latent": 8}
    texts = {f"n_text_{name[2:]}": sizes[name] for name in ("n_hidden", "n_layers", "n_heads", "n_intermediate")}
    medians = np.random.default_rng(0).uniform(1, 3, len(genes))
    words = {"text_vocabulary": tuple(WORDS), "n_words": len(WORDS)}
    return sf.model.LangCell(genes=GeneVocabulary(genes, medians=medians), **sizes, **texts, **words)


def _cellnamer(genes: Any) -> sf.model.CellNamer:
    types = ("CL:0000236", "CL:0000576")
    markers = {identifier: ["gene"] for identifier in types}
    structure = {"types": types, "markers": markers, "n_hidden": 8, "n_latent": 8, "n_buckets": 64, "n_text_hidden": 8}
    model = sf.model.CellNamer(genes=genes, **structure)
    model.module.n_studies.fill_(1)
    return model


def _celler(genes: Any) -> sf.model.Celler:
    return sf.model.Celler(genes=genes, n_hidden=16, n_layers=2, n_heads=2, n_intermediate=16)


def _celllm(genes: Any) -> sf.model.CellLM:
    sizes = {"n_hidden": 16, "n_layers": 2, "n_heads": 2, "n_head": 8, "n_intermediate": 16, "n_features": 16}
    model = sf.model.CellLM(genes=genes, n_contrast=8, **sizes)
    model.description_["objectives"] = ["tumour"]
    return model


def _scpalm(genes: Any) -> sf.model.ScPaLM:
    sizes = {"n_tokens": 12, "n_hidden": 16, "n_codes": 64, "n_layers": 1, "n_heads": 2, "n_intermediate": 16}
    model = sf.model.ScPaLM(genes=genes, n_value=8, n_gene=4, **sizes)
    # As a training begins: without, all cells have the same tokens.
    counts = sparse.random_array((50, len(model.genes)), density=0.5, rng=np.random.default_rng(0), format="csr")
    model.module.embedding.start(model.batch(sparse.csr_matrix(counts)))
    return model


MODELS: dict[str, Callable[[Any], Any]] = {
    "cellplm": _cellplm,
    "cellplm_gmvae": lambda genes: _cellplm(genes, "gmvae"),
    "langcell": _langcell,
    "cellnamer": _cellnamer,
    "celler": _celler,
    "celllm": _celllm,
    "scpalm": _scpalm,
    "small": SmallModel,
}


# What a model learns from beside counts, by its name.
TRAINING_KEYS = {
    "cellplm": {"batch_key": "sample"},
    "langcell": {"text_keys": "text"},
    "cellnamer": {"labels_key": "label"},
    "celllm": {"tumour_key": "tissue"},
}


def training_cells(n_cells: int = 24, n_genes: int = 60) -> AnnData:
    """Cells of two kinds, which all models can learn from."""
    rng, kind = np.random.default_rng(0), np.arange(n_cells) % 2
    counts = rng.poisson(np.where(np.arange(n_genes) % 2 == kind[:, None], 4.0, 0.5)).astype(np.float32)
    label = np.array(["B cell", "monocyte"])[kind]
    columns = {"label": label, "tissue": np.array(["tumour", "normal"])[kind]}
    columns |= {"text": [f"cell type: {name}" for name in label], "sample": [f"s{i % 7}" for i in range(n_cells)]}
    obs = pd.DataFrame(columns, index=[f"cell{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"ENSG{number:011d}" for number in range(n_genes)])
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=var)


def registered(name: str, adata: AnnData | None = None, **config: Any) -> Any:
    """A small model with cells to learn from."""
    adata = training_cells() if adata is None else adata
    small = MODELS[name](adata.var_names)
    cls = type(small)
    cls.setup_anndata(adata, **TRAINING_KEYS.get(cls.name, {}))
    return cls(adata, genes=small.genes, **(small.config.as_dict() | config))


def log_normalised(adata: AnnData) -> AnnData:
    return AnnData(log_cp10k(adata.X).astype(np.float32), obs=adata.obs, var=adata.var, obsm=dict(adata.obsm))


def state_of(model: Any) -> dict[str, Any]:
    """Copy of all weights of a model, and whether it is being trained."""
    module = getattr(model, "module", None)
    if module is None:
        return {}
    return {name: value.numpy().copy() for name, value in module.state_dict().items()} | {"training": module.training}


def with_pathways(adata: AnnData, *names: str) -> tuple[AnnData, AnnData]:
    """Cells to annotate and a reference: two pathways raise genes of their own, in any combination."""
    rng = np.random.default_rng(0)
    active = rng.random((adata.n_obs, 2)) < 0.4
    rates = np.full((adata.n_obs, adata.n_vars), 0.5)
    rates[:, :6] += 6 * active[:, :1]
    rates[:, 6:12] += 6 * active[:, 1:]
    adata.X = sparse.csr_matrix(rng.poisson(rates).astype(np.float32))
    adata.obsm["active"] = pd.DataFrame(active, index=adata.obs_names, columns=names)
    return adata[: adata.n_obs // 2].copy(), adata[adata.n_obs // 2 :].copy()


def weights(model: Any) -> dict[str, Any]:
    """Copy of all weights of a model, as tensors."""
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def equal(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two models have the same weights."""
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def moved(before: Mapping[str, Any], model: Any) -> set[str]:
    """Parts of a model that have other weights than before."""
    after = weights(model)
    return {name.split(".")[0] for name in before if not before[name].equal(after[name])}


def attention_of(
    model: Any, adata: AnnData, *, groupby: str | None = None, batch_size: int | None = None, **how: Any
) -> Any:
    """All weights of a model whose cells attend to each other, and sums between groups of cells."""
    keys = {name: how.pop(name) for name in ("batch_key", "spatial_key") if name in how}
    cells = Cells.of(adata, model.genes, **keys, caller="test")
    codes = np.full(adata.n_obs, -1) if groupby is None else adata.obs[groupby].cat.codes.to_numpy().astype(int)
    n_codes = 0 if groupby is None else adata.obs[groupby].nunique()
    compute = Compute.resolve("cpu", batch_size=batch_size)
    return attend(model, cells, codes, n_codes, compute=compute, **{"k": adata.n_obs} | how)


def disturb(model: Any) -> None:
    """Change all weights of a model, so that those of a checkpoint have to replace them."""
    for value in model.module.state_dict().values():
        if value.is_floating_point():
            value.add_(1.0)


@contextmanager
def at_every_step(model: Any, act: Callable[[], None]) -> Iterator[None]:
    """Call something whenever the model embeds, or a layer of any network computes."""
    cls, embed = type(model), type(model).embed
    cls.embed = lambda self, *args, **how: (act(), embed(self, *args, **how))[1]
    hook = register_module_forward_pre_hook(lambda *_: act())
    try:
        yield
    finally:
        cls.embed = embed
        hook.remove()


# ---- ways to keep the same cells -----------------------------------------------------------------------------------


def with_matrix(adata: AnnData, matrix: Any) -> AnnData:
    return AnnData(matrix, obs=adata.obs, var=adata.var, obsm=dict(adata.obsm))


def _view(adata: AnnData, folder: Path) -> AnnData:
    rng = np.random.default_rng(0)
    cells, genes = rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)
    return adata[cells, genes].copy()[np.argsort(cells), np.argsort(genes)]


def _backed(adata: AnnData, folder: Path) -> AnnData:
    if not (file := folder / "cells.h5ad").exists():
        adata.write_h5ad(file)
    return read_h5ad(file, backed="r")


def _zarr(adata: AnnData, folder: Path) -> AnnData:
    if not (store := folder / "cells.zarr").exists():
        adata.write_zarr(store)
    return with_matrix(adata, sparse_dataset(zarr.open_group(store, mode="r")["X"]))


def _lazy(adata: AnnData, folder: Path) -> AnnData:
    _zarr(adata, folder)
    return read_lazy(folder / "cells.zarr")


STORES: dict[str, Callable[[AnnData, Path], Any]] = {
    "view": _view,
    "backed": _backed,
    "zarr": _zarr,
    "lazy": _lazy,
    "mudata": lambda adata, _: MuData({"rna": adata.copy()}),
}
"""Ways to keep cells; files are written to a folder of their own where it has none, and only read then."""


# ---- results as tables ---------------------------------------------------------------------------------------------


def rna(adata: Any) -> AnnData:
    return adata.mod["rna"] if isinstance(adata, MuData) else adata


def contents(adata: Any) -> dict[str, Any]:
    """Everything that an AnnData holds, by address (``"obsm/X_pca"``), with the names of cells and genes on it."""
    adata = rna(adata)
    obs, var = _in_memory(adata.obs), _in_memory(adata.var)
    found: dict[str, Any] = {"X": _named(adata.X[:], obs.index, var.index)}
    found |= {f"obs/{name}": obs[name] for name in obs} | {f"var/{name}": var[name] for name in var}
    found |= {f"obsm/{name}": _named(values, obs.index) for name, values in adata.obsm.items()}
    layers = {name: values for name, values in adata.layers.items() if name is not None}
    found |= {f"layers/{name}": _named(values, obs.index, var.index) for name, values in layers.items()}
    found |= {f"obsp/{name}": _named(values, obs.index, obs.index) for name, values in adata.obsp.items()}
    return found | leaves(adata.uns, "uns")


def leaves(values: Any, address: str) -> dict[str, Any]:
    """Values without others in them, by address."""
    if isinstance(values, AnnData):
        return {f"{address}/{name}": value for name, value in contents(values).items()}
    if isinstance(values, Mapping):
        return {k: v for name, value in values.items() for k, v in leaves(value, f"{address}/{name}").items()}
    if isinstance(values, np.ndarray) and values.dtype.names:
        return {f"{address}/{name}": values[name] for name in values.dtype.names}
    return {address: values}


def _in_memory(values: Any) -> Any:
    """What dask arrays and tables of a lazily opened store hold."""
    for load in ("to_memory", "compute"):
        values = getattr(values, load)() if hasattr(values, load) else values
    return values


def _named(values: Any, *names: pd.Index) -> pd.DataFrame:
    values = _in_memory(values)
    if isinstance(values, pd.DataFrame):
        return values.copy()
    values = values.toarray() if sparse.issparse(values) else np.array(values)
    return pd.DataFrame(values, *names)


def same(found: Mapping[str, Any], expected: Mapping[str, Any], *, tolerance: float = 0, order: bool = True) -> None:
    """Compare results leaf by leaf; with ``order=False`` rows and columns are found by their names."""
    assert sorted(found) == sorted(expected)
    for address, value in expected.items():
        other = found[address]
        if isinstance(value, pd.DataFrame | pd.Series):
            if not order:
                other = other.reindex(value.index)
                other = other[value.columns] if isinstance(value, pd.DataFrame) else other
            check = pd.testing.assert_frame_equal if isinstance(value, pd.DataFrame) else pd.testing.assert_series_equal
            how = {"rtol": tolerance, "atol": tolerance} if tolerance else {"check_exact": True}
            check(other, value, check_names=False, obj=address, **how)
        elif not order and np.ndim(value) == 1 and np.asarray(value).dtype.kind != "f":
            assert sorted(other) == sorted(value), address
        elif np.asarray(value).dtype.kind == "f":
            both = [np.sort(v) if not order and np.ndim(v) == 1 else v for v in (other, value)]
            np.testing.assert_allclose(*both, rtol=tolerance, atol=tolerance, err_msg=address)
        else:
            np.testing.assert_array_equal(other, value, err_msg=address)
