"""Imputation: genes that a spatial panel lacks, from a single-cell reference and what pre-training knows of genes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch

from scfoundry._device import autocast, resolve_device
from scfoundry.data.matrix.contexts import Context, contexts, coordinates
from scfoundry.data.matrix.reader import CountsReader
from scfoundry.data.matrix.spatial_neighbors import neighbor_average
from scfoundry.model.cellplm._decoder import require_expected_counts
from scfoundry.model.cellplm._fine_tune_imputation import fine_tune_on_both
from scfoundry.stats.similarity import partial_pearson, pearson
from scfoundry.tasks.imputation.composition import CELLS_PER_BLOCK, States, compositions, find_states
from scfoundry.tasks.imputation.evidence import Confidence, fit_weights, rates
from scfoundry.tasks.imputation.gene_kriging import gene_directions, unit_vectors
from scfoundry.tasks.imputation.genes import genes_to_hide, genes_to_impute, names_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from scfoundry._device import Precision
    from scfoundry.model.cellplm._model import CellPLM

__all__ = ["EVIDENCE", "Imputation", "ImputesGenes"]

EVIDENCE = ("library", "composition", "gene_vectors", "decoder")
# Where a panel is too small to hide some of its genes: what the benchmarks found on average.
DEFAULT_WEIGHTS = (1.0, 1.0, 2.0, 0.0)
# Values of one kind of evidence that are in memory at a time.
VALUES_PER_BLOCK = 2**24
MAX_SPOTS_ASKED = 20_000
TINY = 1e-9


@dataclass(frozen=True)
class Imputation:
    """Imputed genes.

    Attributes
    ----------
    counts
        Expected counts on the scale of the spots' own libraries, float32, spots x genes.
    confidence
        Of every gene, the correlation with its unseen truth to expect: ``pearson`` of log1p counts,
        ``partial_pearson`` beyond library size; NaN where the panel was too small to hide genes.
    hidden
        Genes of the panel that were hidden to learn this: the same two as reached, and ``expected_pearson``.
    weights
        Exponent of every kind of evidence.
    values
        State of the counts of spots and reference, and how their genes were found.
    """

    counts: pd.DataFrame
    confidence: pd.DataFrame
    hidden: pd.DataFrame
    weights: dict[str, float]
    values: dict[str, str | dict] = field(repr=False)


@dataclass(frozen=True)
class Spots:
    """Spatial data, checked and aligned."""

    reader: CountsReader
    contexts: Sequence[Context]
    positions: Mapping[str, np.ndarray]

    def library(self, panel: NDArray[np.int64]) -> NDArray[np.float32]:
        """Counts of the panel in every spot, (n,)."""
        rows = np.arange(self.reader.n_obs)
        return np.concatenate([np.ravel(b[:, panel].sum(1)) for b in self.reader.blocks(rows, CELLS_PER_BLOCK)])


class Evidence:
    """What library, composition, gene vectors and decoder say of genes that a panel lacks.

    Parameters
    ----------
    model
        The model, on its device.
    spots
        Spatial data.
    states
        Cell states of the reference.
    panel
        Vocabulary positions of genes that may be looked at in the spots.
    batch_size, device, precision
        As in `CellPLM.get_latent_representation`.
    """

    def __init__(
        self,
        model: CellPLM,
        spots: Spots,
        states: States,
        panel: NDArray[np.int64],
        *,
        batch_size: int | None,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.module, self.states, self.precision = model.module, states, precision
        self.shared = np.intersect1d(panel, states.genes)
        self.library = spots.library(panel)
        self.shared_library = spots.library(self.shared)
        n_spots = spots.reader.n_obs
        neighbors = neighbor_average(spots.contexts, spots.positions, n_spots) if spots.positions else None
        self.shares = compositions(spots.reader, states, self.shared, neighbors)
        self.vectors = unit_vectors(self.module.embedder.genes.detach().float().cpu().numpy())
        self.directions = gene_directions(spots.reader, self.vectors, panel, neighbors)
        self.latent = model._embed(
            spots.reader.only(panel),
            spots.contexts,
            spots.positions,
            batch_size=batch_size,
            device=device,
            precision=precision,
        )
        self._decoded_panel: NDArray[np.float32] | None = None

    def of(
        self, genes: NDArray[np.int64], used: NDArray[np.bool_], spots: NDArray[np.int64] | slice = slice(None)
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Log evidence of some spots, and the mean count of every gene that their composition lets expect.

        Parameters
        ----------
        genes
            Vocabulary positions of g genes.
        used
            Kinds of evidence that are wanted, (E,); the others are 0.
        spots
            Rows of n spots, over which all kinds but the library are centred.

        Returns
        -------
        (E, n, g), and (g,).
        """
        mixed = self.shares[spots] @ self.states.of(genes, self.shared)  # (n, K) @ (K, g)
        levels = (mixed * self.shared_library[spots, None]).mean(0)
        kinds = (
            lambda: np.log(np.maximum(mixed, TINY)),
            lambda: self.directions[spots] @ self.vectors[genes].T,
            lambda: np.log(np.maximum(self._decoded(genes, spots), TINY)),
        )
        found = np.zeros((len(EVIDENCE), *mixed.shape), dtype=np.float32)
        found[0] = used[0] * np.log(np.maximum(self.library[spots], 1))[:, None]
        for i, kind in enumerate(kinds, start=1):
            if used[i]:
                values = kind()
                found[i] = values - values.mean(0)
        return found, levels

    def _decoded(self, genes: NDArray[np.int64], spots: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Counts of ``genes`` per count of the shared panel that the decoder expects, (n, g)."""
        if self._decoded_panel is None:
            self._decoded_panel = self._decoder_means(self.shared, slice(None), total=True)
        return self._decoder_means(genes, spots) / self._decoded_panel[spots]

    @torch.no_grad()
    def _decoder_means(
        self, genes: NDArray[np.int64], spots: NDArray[np.int64] | slice, *, total: bool = False
    ) -> NDArray[np.float32]:
        """Unscaled means of genes by the decoder, (n, g), or their total, (n, 1)."""
        device = self.module.device
        place = torch.from_numpy(genes).to(device)
        parts = []
        with autocast(device, self.precision):
            for latent in torch.from_numpy(self.latent[spots]).split(CELLS_PER_BLOCK):
                mean = self.module.decoder(latent.to(device), genes=place)[0].float()
                parts.append((mean.sum(1, keepdim=True) if total else mean).cpu().numpy())
        return np.concatenate(parts)


class ImputesGenes:
    """The part of `CellPLM` that `sf.tl.impute_spatial` uses."""

    def impute(
        self,
        adata: AnnData,
        reference: AnnData,
        genes: Sequence[str] | None = None,
        *,
        context_key: str | None = None,
        spatial_key: str | None = "spatial",
        reference_context_key: str | None = None,
        layer: str | None = None,
        reference_layer: str | None = None,
        evidence: Sequence[str] = EVIDENCE,
        fine_tune: bool = False,
        max_epochs: int | None = None,
        genes_per_block: int | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
    ) -> Imputation:
        """Expected counts of genes that spots were not measured for; see `sf.tl.impute_spatial`.

        This model, and both data sets, stay as they are.
        """
        model, caller = cast("CellPLM", self), "sf.tl.impute_spatial"
        require_expected_counts(model)
        if isinstance(evidence, str):
            msg = f"{caller}: evidence is a list of kinds; got the text {evidence!r}. Pass evidence=[{evidence!r}]."
            raise ValueError(msg)
        used = np.isin(EVIDENCE, evidence)
        if not len(evidence) or used.sum() != len(set(evidence)):
            msg = f"{caller}: evidence must be some of {', '.join(map(repr, EVIDENCE))}; got {tuple(evidence)}."
            raise ValueError(msg)
        torch_device = resolve_device(device)
        autocast(torch_device, precision)  # refuses an unknown one before anything is computed
        groups = contexts(adata, context_key, name="adata_sp", argument="context_key")
        positions = coordinates(adata, spatial_key, groups, name="adata_sp")
        reference_groups = contexts(reference, reference_context_key, name="adata_sc", argument="reference_context_key")
        spots = Spots(CountsReader(adata, model.genes, layer=layer, caller=caller), groups, positions)
        cells = CountsReader(reference, model.genes, layer=reference_layer, caller=f"{caller} (reference)")
        names, wanted = genes_to_impute(spots.reader, cells, model.genes, genes, caller=caller)
        panel = spots.reader.alignment.measured.astype(np.int64)
        hidden = genes_to_hide(spots.reader, np.intersect1d(panel, cells.alignment.measured), seed)
        visible = np.setdiff1d(panel, hidden)

        if fine_tune:
            model = model.copy()
            model.module.to(torch_device)
            fine_tune_on_both(
                model,
                (spots.reader, groups, positions),
                (cells, reference_groups),
                panel=visible,
                hidden=hidden,
                max_epochs=max_epochs,
                seed=seed,
                device=torch_device,
                precision=precision,
            )
        where: dict[str, Any] = {"batch_size": batch_size, "device": torch_device, "precision": precision}
        latent = model._embed(cells, reference_groups, {}, **where)
        by_name = np.argsort(reference.obs_names.to_numpy().astype(str), kind="stable")
        states = find_states(model.module, cells, latent, by_name, seed=seed)

        weights, confidence, told = np.where(used, DEFAULT_WEIGHTS, 0.0), Confidence(None, None), _no_genes()
        if len(hidden):
            # What is learned on hidden genes holds for the wanted ones, which nobody sees either.
            trial = Evidence(model, spots, states, visible, **where)
            asked = _some_spots(adata, seed)
            found, levels = trial.of(hidden, used, asked)
            truth, library = spots.reader.read(asked)[:, hidden].toarray(), trial.library[asked]
            weights = fit_weights(truth, found, weights, used)
            rate = rates(found, weights, levels, empty=library == 0)
            confidence = Confidence.fit(truth, rate, library)
            told = _reached(truth, rate, library, confidence, names_of(hidden, spots.reader.alignment))
        final = Evidence(model, spots, states, panel, **where)
        size = genes_per_block or max(1, VALUES_PER_BLOCK // adata.n_obs)
        imputed = np.empty((adata.n_obs, len(wanted)), dtype=np.float32)
        expected = np.empty((2, len(wanted)))
        for start in range(0, len(wanted), size):
            block = slice(start, start + size)
            found, levels = final.of(wanted[block], weights > 0)
            imputed[:, block] = rates(found, weights, levels, empty=final.library == 0)
            expected[:, block] = confidence(imputed[:, block])
        return Imputation(
            pd.DataFrame(imputed, index=adata.obs_names, columns=names),
            pd.DataFrame(expected.T, index=names, columns=["pearson", "partial_pearson"]),
            told,
            dict(zip(EVIDENCE, weights.tolist(), strict=True)),
            {
                "values": str(spots.reader.report.state),
                "genes": spots.reader.alignment.report(),
                "reference_values": str(cells.report.state),
                "reference_genes": cells.alignment.report(),
            },
        )


def _some_spots(adata: AnnData, seed: int) -> NDArray[np.int64]:
    """Rows of spots to learn weights from: all of them, or as many as tell enough, drawn by name."""
    by_name = np.argsort(adata.obs_names.to_numpy().astype(str), kind="stable")
    return np.sort(np.random.default_rng(seed).permutation(by_name)[:MAX_SPOTS_ASKED])


def _no_genes() -> pd.DataFrame:
    return pd.DataFrame(columns=["pearson", "partial_pearson", "expected_pearson"], dtype=float)


def _reached(
    truth: NDArray[np.float32],
    rate: NDArray[np.float32],
    library: NDArray[np.float32],
    confidence: Confidence,
    names: list[str],
) -> pd.DataFrame:
    """What was reached on hidden genes."""
    x, y = np.log1p(truth.astype(np.float64)), np.log1p(rate.astype(np.float64))
    columns = {
        "pearson": pearson(x, y),
        "partial_pearson": partial_pearson(x, y, library.astype(np.float64)),
        "expected_pearson": confidence(rate)[0],
    }
    return pd.DataFrame(columns, index=names)
