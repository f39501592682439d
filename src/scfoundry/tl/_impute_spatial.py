"""Genes that a spatial panel lacks, from a single-cell reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scfoundry._arguments import checks_arguments
from scfoundry._keys import Keys, Units
from scfoundry._settings import logger
from scfoundry.data.matrix.state import MatrixState
from scfoundry.data.modality import modality_of, to_write
from scfoundry.tl._opening import new_seed, open_model, record, write_results

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from anndata import AnnData
    from mudata import MuData

    from scfoundry._device import Precision
    from scfoundry.model import FoundationModel
    from scfoundry.tasks.imputation.impute import Imputation

__all__ = ["impute_spatial"]

CALLER = "sf.tl.impute_spatial"
SCALES: dict[str, str] = {
    MatrixState.COUNTS: "expected counts, on the scale of the library of every spot",
    MatrixState.LOG1P: "expected values before the log1p, on the scale that the spots were normalised to",
}
UNITS: dict[str, str] = {MatrixState.COUNTS: Units.COUNTS, MatrixState.LOG1P: Units.NORMALISED}


@checks_arguments
def impute_spatial(
    adata_sp: AnnData | MuData,
    adata_sc: AnnData | MuData,
    *,
    genes: str | Sequence[str] | None = None,
    model: str | Path | FoundationModel = "cellplm",
    spatial_key: str | None = Keys.SPATIAL,
    context_key: str | None = None,
    reference_context_key: str | None = None,
    layer: str | None = None,
    reference_layer: str | None = None,
    evidence: Sequence[str] | None = None,
    fine_tune: bool = False,
    max_epochs: int | None = None,
    genes_per_block: int | None = None,
    modality: str = Keys.RNA,
    rng: int | np.random.Generator | None = 0,
    key_added: str = Keys.IMPUTED,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Impute genes that spots were not measured for, from single cells of the same kind of tissue.

    The expected count of a gene in a spot is a product of up to four kinds of evidence: the library size of the spot,
    the cell states that it is composed of, the model's vectors of genes that vary together, and the model's decoder.
    Up to 100 genes of the panel are hidden and imputed first; how well that goes decides how much each kind is worth,
    and how far to trust every imputed gene. Genes of the reference that the model does not know are imputed from
    library size and composition alone. The guide :doc:`/guide/impute` has the equations.

    Parameters
    ----------
    adata_sp
        Spots, or cells measured in place, x genes, with raw counts, or log1p-normalised values where there are none.
    adata_sc
        Single cells of the same species and tissue, in the same forms; they need no labels.
    genes
        Names of the genes to impute, or one name; all that the reference has and the spots lack if `None`.
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model. Any
        that embeds cells will do; see ``evidence``.
    spatial_key
        Key of ``adata_sp.obsm`` with coordinates; `None` for cells without any, each of which then stands for itself.
    context_key
        Column of ``adata_sp.obs`` that names the section or field of view; all spots are one if `None`.
    reference_context_key
        Column of ``adata_sc.obs`` that names the sample.
    layer, reference_layer
        Layers with the counts, ``X`` if `None`.
    evidence
        Which kinds to use: ``"library"``, ``"composition"``, ``"gene_vectors"``, ``"decoder"``. All that the model has
        if `None`: the first two need nothing but an embedding.
    fine_tune
        Train a copy of the model on spots and cells first, each with its own measured genes, as published for
        CellPLM :cite:p:`wen2024cellplm`. It improves the decoder, which then rarely adds to the other evidence: see
        Notes.
    max_epochs
        Most passes of that training; as many as make about 300 steps if `None`. Refused without ``fine_tune``.
    genes_per_block
        Genes imputed at a time; chosen for the memory if `None`. Does not change the result.
    modality, key_added
        Modality of a `MuData`, and name for the results.
    rng
        Seed or generator.
    device, precision, batch_size
        Where to compute (``"auto"``, ``"cpu"``, ``"cuda:1"``, ``"mps"``), how precisely (``"float32"``, ``"bfloat16"``
        for matrix products; ``"auto"``: bfloat16 on CUDA; ``"fastest"``: what a short measurement finds faster here),
        and how many cells at a time (if `None`, what suits the device).
    copy
        Return a changed copy, in memory, instead of changing ``adata_sp``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. With ``key_added`` for ``imputed``, sets:

    ``adata_sp.obsm["imputed"]``
        Expected counts, float32 DataFrame, (n_spots, n_genes); 0 for spots without counts. Their log1p compares with
        log1p of measured counts. Of log1p-normalised spots, expected values on their scale before the log1p.
    ``adata_sp.uns["imputed"]``
        ``"confidence"``: by gene, the correlation with its unseen truth to expect over all spots, ``pearson`` (log1p
        counts) and ``partial_pearson`` (beyond library size); NaN where the panel is too small to hide genes, too high
        for genes with very few counts (on a pancreas tumour 0.31 was expected of the sparsest quarter, which reached
        0.23); and the ``evidence`` it was imputed from. ``"hidden_genes"``: the genes hidden to learn this, with what
        they reached. ``"weights"``: the exponents; ``"weights_of_unknown_genes"``: those of genes that the model does
        not know, if some were imputed. ``"params"``: the arguments, the scale, the ``"evidence"`` used, and
        ``"evidence_unavailable"``, kinds that the model does not have. ``"provenance"``: weights with their checksum,
        licence, citation, versions, and how the genes of both data sets were matched.

    Raises
    ------
    ValueError
        If values of either data set are scaled, negative, NaN or neither counts nor log1p-normalised; the two share no
        gene or are of different species; a gene is not in the reference, measured already, named twice, or one that
        the evidence says nothing of; coordinates are missing, text or of the wrong shape; a key does not exist, or an
        argument is out of range or has no effect; or the model lacks a kind of evidence that was asked for, or a
        published fine-tuning. Nothing has been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Notes
    -----
    Spatial counts are few: of a gene with one count in ten spots no method can predict where they fall, and library
    size explains most of what can be. Read ``partial_pearson``, and see `sf.metrics.imputation`. With ``cellplm-mini``,
    fine-tuning changed nothing on average: over four spatial sets, one hold-out of 100 genes each, the mean partial
    Pearson correlation of held-out genes was 0.077 with and without it (``python -m benchmarks impute_spatial``).

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.tl.impute_spatial(spots, cells, genes=["CD3E", "MS4A1"])  # doctest: +SKIP
    >>> spots.uns["imputed"]["confidence"]  # doctest: +SKIP
    >>> sf.pl.imputed(spots, "CD3E")  # doctest: +SKIP
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import FineTunesImputation
    from scfoundry.tasks.imputation.evidence import choose_evidence
    from scfoundry.tasks.imputation.genes import FurtherGenes, genes_to_impute
    from scfoundry.tasks.imputation.impute import ImputationOptions, impute

    if max_epochs is not None and not fine_tune:
        msg = f"max_epochs={max_epochs} is of fine-tuning: fine_tune=True. The default trains nothing: leave it out."
        raise ValueError(msg)
    adata, target = to_write(adata_sp, modality, copy=copy, caller=CALLER)
    compute = Compute.resolve(device, precision, batch_size)
    loaded = open_model(model, FineTunesImputation if fine_tune else None, caller=CALLER)
    used, lacking = choose_evidence(loaded, evidence, caller=CALLER)
    keys: dict[str, Any] = {"layer": layer, "batch_key": context_key, "spatial_key": spatial_key}
    spots = Cells.of(target, loaded.genes, **keys, called=("adata_sp", "context_key"), caller=CALLER)
    keys = {"layer": reference_layer, "batch_key": reference_context_key}
    keys["called"] = ("adata_sc", "reference_context_key")
    single_cells = modality_of(adata_sc, modality)
    reference = Cells.of(single_cells, loaded.genes, **keys, caller=f"{CALLER} (reference)")
    further = FurtherGenes.of(reference, loaded.genes)
    known = {"vocabulary": loaded.genes, "further": further, "evidence": used}
    wanted = genes_to_impute(spots, reference, genes, **known, caller=CALLER)

    options = ImputationOptions(used, fine_tune, max_epochs, genes_per_block, seed=new_seed(rng))
    imputed = impute(loaded, spots, reference, wanted, further, options=options, compute=compute)

    params: dict[str, Any] = {"scale": SCALES[spots.provenance["values"]], "spatial_key": spatial_key}
    params |= {"context_key": context_key, "reference_context_key": reference_context_key}
    params |= {"layer": layer, "reference_layer": reference_layer}
    params |= {"evidence": list(used), "evidence_unavailable": list(lacking) or None, "fine_tune": fine_tune}
    params |= {"max_epochs": max_epochs, "rng": rng, "precision": precision}
    of_reference = {f"reference_{name}": value for name, value in reference.provenance.items()}
    trust = {Keys.CONFIDENCE: imputed.confidence, Keys.HIDDEN: imputed.hidden, Keys.WEIGHTS: imputed.weights}
    trust |= {Keys.WEIGHTS_OF_UNKNOWN: imputed.weights_of_unknown} if imputed.weights_of_unknown else {}
    origin = record(loaded, spots, params, **of_reference) | trust
    n_unknown = sum(position >= further.start for position in wanted.values())
    beside = f" ({n_unknown:,} of them unknown to the model)" if n_unknown else ""
    done = f"{loaded.provenance['weights']}: imputed {len(wanted):,} genes{beside} of {spots.n_obs:,} spots"
    _log_confidence(done, imputed)
    slots = {f"obsm/{key_added}": imputed.counts.set_axis(target.obs_names), f"uns/{key_added}": origin}
    write_results(target, slots, units=UNITS[spots.provenance["values"]], caller=CALLER)
    return adata if copy else None


def _log_confidence(what: str, imputed: Imputation) -> None:
    expected = imputed.confidence[["pearson", "partial_pearson"]].mean()
    trust = (
        f"expected correlation {expected['pearson']:.2f}, beyond library size {expected['partial_pearson']:.2f} (means "
        "over genes)."
        if expected.notna().all()
        else "how far to trust them is unknown: the panel has too few well-detected genes to hide some."
    )
    logger.info(f"{what}; {trust}")
