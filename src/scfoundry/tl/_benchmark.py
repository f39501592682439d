"""Embeddings of several models and of simple peers, scored on the data at hand."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scfoundry._arguments import checks_arguments, quoted
from scfoundry._keys import Keys, Units
from scfoundry._settings import logger
from scfoundry._version import __version__
from scfoundry.data.modality import modality_of
from scfoundry.tl._opening import given, group_codes, new_seed, open_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model import FoundationModel
    from scfoundry.tasks.benchmarking.baselines import Baseline
    from scfoundry.tasks.embedding.embedder import Adaptation

__all__ = ["benchmark"]

CALLER, PCA = "sf.tl.benchmark", "PCA"


@checks_arguments
def benchmark(
    adata: AnnData | MuData,
    models: str | Path | FoundationModel | Sequence[str | Path | FoundationModel] = "cellplm",
    *,
    label_key: str,
    batch_key: str | None = None,
    baselines: Sequence[Baseline] = ("pca", "harmony", "scvi"),
    use_reps: Sequence[str] = (),
    adapt: Adaptation | None = "components",
    layer: str | None = None,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str = Keys.BENCHMARK,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Score embeddings of several models on your own labelled cells, beside what is fitted to them in a moment.

    Every model embeds the cells as `sf.tl.embed` does. The scores are those of scib-metrics, the published benchmark of
    integration: bio conservation (do types stay apart), batch correction (do batches mix within them), and their
    weighted total, 0.6 and 0.4. They are not rescaled between methods, so that runs can be compared.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or, without ``"scvi"``, log1p-normalised values; or a `MuData`.
    models
        Names, folders or loaded models, one or several.
    label_key, batch_key
        Columns of ``obs`` with cell types and batches. Cells without a type are embedded and not scored. Without
        ``batch_key`` there is no batch score.
    baselines
        Peers fitted to these cells: ``"pca"`` (2,000 variable genes, 50 components), ``"harmony"`` on them (with
        ``batch_key``; needs harmonypy), ``"scvi"`` (trains for minutes on a CPU), and ``"random"``, every model once
        more with random weights, which tells what its training added.
    use_reps
        Keys of ``obsm`` to score besides.
    adapt
        As in `sf.tl.embed`; `None` scores the latent of the models alone.
    layer, modality
        Layer with the values (``X`` if `None`), modality of a `MuData`.
    rng
        Seed or generator, of random weights, baselines and k-means.
    key_added
        Key of ``uns``.
    device, precision, batch_size
        As in `sf.tl.embed`.

    Returns
    -------
    Scores, a row per embedding from best to worst, between 0 and 1, 1 being best; ``"seconds"`` it took. Sets:

    ``adata.uns["benchmark"]``
        ``"scores"``, the same; ``"params"``: the arguments; ``"versions"`` of the packages, on which scores depend.

    Raises
    ------
    ImportError
        If scib-metrics (``pip install "scfoundry-models[scib]"``) or, for its baseline, harmonypy is not installed.
    ValueError
        If a column or key does not exist, there are fewer than two types or a hundred labelled cells, an argument is
        unknown, or as in `sf.tl.embed`. Nothing has been computed then.

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.tl.benchmark(adata, ["cellplm", "celler"], label_key="cell_type", batch_key="donor")  # doctest: +SKIP
    >>> sf.pl.benchmark(adata)  # doctest: +SKIP
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.tasks.benchmarking import scib

    chosen = list(baselines)
    target = modality_of(adata, modality)
    scored, labels = _labels(target, label_key)
    batches = _batches(target, batch_key)
    if "harmony" in chosen and batches is None:
        chosen.remove("harmony")
    scib_version = _require_installed(chosen)
    if missing := [key for key in use_reps if key not in target.obsm]:
        msg = f"adata.obsm has no {quoted(missing)}; its keys: {quoted(target.obsm)}. Pass some of them as use_reps."
        raise ValueError(msg)
    compute, seed = Compute.resolve(device, precision, batch_size), new_seed(rng)
    several = models if isinstance(models, list | tuple) else [models]
    if not several:
        msg = 'There are no models to score. Name some: models=["cellplm"].'
        raise ValueError(msg)
    opened = [open_model(model, caller=CALLER) for model in several]
    keys: dict[str, Any] = {"layer": layer, "batch_key": batch_key}
    # All are opened before any is run: what one of them refuses costs no time.
    cells = [Cells.of(target, model.genes, **keys, caller=CALLER, allow_log1p="scvi" not in chosen) for model in opened]

    embeddings: dict[str, NDArray[np.float32]] = {key: np.asarray(target.obsm[key]) for key in use_reps}
    seconds = dict.fromkeys(embeddings, np.nan)
    start = time.perf_counter()
    for name, embedding in _embeddings(opened, cells, chosen, batches, adapt, seed, compute):
        embeddings[name], seconds[name] = embedding, round(time.perf_counter() - start, 1)
        logger.info("%s: %s took %.1f s.", CALLER, name, seconds[name])
        start = time.perf_counter()
    of_scored, unintegrated = None if batches is None else batches[scored], embeddings[PCA][scored]
    if "pca" not in chosen:
        del embeddings[PCA]
    found = {
        name: scib.scib_scores(embedding[scored], labels, of_scored, unintegrated, [seed])
        for name, embedding in embeddings.items()
    }
    scores = scib.table(found)
    scores["seconds"] = pd.Series(seconds)
    params = keys | {"label_key": label_key, "adapt": adapt, "baselines": chosen, "rng": rng}
    target.uns[key_added] = {
        Keys.VERB: CALLER,
        Keys.UNITS: Units.SCORE,
        Keys.PARAMS: given(params),
        "scores": scores,
        "versions": {name: version(name) for name in ("scanpy", "scvi-tools")}
        | {"scfoundry": __version__, "scib-metrics": scib_version},
    }
    return scores


def _embeddings(
    models: Sequence[Any],
    cells: Sequence[Cells],
    baselines: Sequence[str],
    batches: NDArray[np.str_] | None,
    adapt: Any,
    seed: int,
    compute: Any,
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Names and embeddings, (n_obs, d): PCA first, to which batch correction is compared."""
    from anndata import AnnData

    from scfoundry.tasks.benchmarking import baselines as peers
    from scfoundry.tasks.embedding.embedder import Embedder

    own, key = cells[0].own, None if batches is None else "batch"
    counts = AnnData(own.own_columns(np.arange(len(own.alignment.names))))
    if batches is not None:
        counts.obs["batch"] = pd.Categorical(batches)
    variable = counts[:, peers.variable_genes(counts, batch_key=key)].copy()
    components = peers.pca(variable)
    yield PCA, components
    if "harmony" in baselines and batches is not None:
        yield "Harmony", peers.harmony(components, batches, seed)
    if "scvi" in baselines:
        yield "scVI", peers.scvi(variable, key, seed)
    how: dict[str, Any] = {"adapt": adapt, "fine_tune": False, "max_epochs": None, "seed": seed, "compute": compute}
    for name, model, of_model in zip(_names(models), models, cells, strict=True):
        yield name, Embedder.fit(model, of_model, **how)[1]
        if "random" in baselines:
            random = type(model)(genes=model.genes, seed=seed, **model.config.as_dict())
            yield f"{name}, random weights", Embedder.fit(random, of_model, **how)[1]


def _names(models: Sequence[Any]) -> list[str]:
    """Names of weights; the model, and at last a number, beside those that several share."""
    names = [model.provenance["weights"] for model in models]
    for more in ([model.provenance["model"] for model in models], range(1, len(models) + 1)):
        names = [name if names.count(name) == 1 else f"{name} ({what})" for name, what in zip(names, more, strict=True)]
    return names


def _labels(adata: AnnData, label_key: str) -> tuple[NDArray[np.bool_], NDArray[np.str_]]:
    """Which cells are scored, (n_obs,), and their types."""
    codes, names = group_codes(adata, label_key, argument="label_key", caller=CALLER, optional=False)
    scored = codes >= 0
    if len(names) < 2 or scored.sum() < 100:
        msg = (
            f"{scored.sum()} cells of {len(names)} types are labelled in adata.obs[{label_key!r}]; at least 100 of 2 "
            "are needed, which have neighbours to look at. Pass another column as label_key."
        )
        raise ValueError(msg)
    return scored, np.array(names)[codes[scored]]


def _batches(adata: AnnData, batch_key: str | None) -> NDArray[np.str_] | None:
    """Batch of every cell; `None` where there is one alone."""
    codes, names = group_codes(adata, batch_key, argument="batch_key", caller=CALLER)
    if len(names) < 2:
        return None
    return np.array([*names, "no batch"])[codes]


def _require_installed(baselines: Sequence[str]) -> str:
    """Version of scib-metrics; an ImportError where a package is missing."""
    from scfoundry.tasks.benchmarking.scib import require_scib

    found = require_scib(caller=CALLER)
    if "harmony" in baselines:
        try:
            import harmonypy  # noqa: F401
        except ImportError as error:
            others = tuple(name for name in baselines if name != "harmony")
            msg = f'The baseline "harmony" needs harmonypy: pip install harmonypy. Or leave it out: baselines={others}.'
            raise ImportError(msg) from error
    return found
