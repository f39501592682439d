"""Genes that a spatial panel lacks, from a single-cell reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scfoundry._keys import Keys
from scfoundry._said_once import said_once
from scfoundry._settings import logger
from scfoundry.data.matrix.state import MatrixState
from scfoundry.data.modality import modality_of, to_write

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scfoundry._device import Precision
    from scfoundry.model import FoundationModel

__all__ = ["impute_spatial"]

CALLER = "sf.tl.impute_spatial"
SCALES: dict[str, str] = {
    MatrixState.COUNTS: "expected counts, on the scale of the library of every spot",
    MatrixState.LOG1P: "expected values before the log1p, on the scale that the spots were normalised to",
}


@said_once()
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
    evidence: Sequence[str] = ("library", "composition", "gene_vectors", "decoder"),
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
    r"""Impute genes that spots were not measured for, from single cells of the same kind of tissue.

    The expected count of gene t in spot i is a product of four kinds of evidence,

    .. math::

        \mu_{it} \propto L_i^{b_0} \, c_{it}^{b_1} \, \exp(b_2\, e_t^\top d_i) \, \rho_{it}^{b_3} ,

    all but the first relative to their mean over spots:

    - the library size :math:`L_i` of the spot;
    - its composition: the states of the reference, found in the latent of the model, are mixed so that the counts of
      the shared genes become most likely, neighbouring spots helping; their profiles, with the pretrained decoder as
      prior, give :math:`c_{it}`;
    - the gene vectors of the model: pre-training placed genes that vary together side by side, so that the direction
      :math:`d_i` in which the panel of a spot deviates tells of genes it lacks (kriging over genes);
    - the decoder's expectation :math:`\rho_{it}` for the spot's own latent, which is what CellPLM reports as published
      :cite:p:`wen2024cellplm`.

    How much each is worth is asked of genes hidden on purpose: up to 100 genes of the panel, from all strata of
    sparsity, are imputed first, and the exponents :math:`b` maximise the likelihood of where their counts lie. The same
    genes say how far to trust every imputed one.

    Parameters
    ----------
    adata_sp
        Spots, or cells measured in place, x genes, with raw counts, or log1p-normalised values where there are no
        counts.
    adata_sc
        Single cells of the same species and tissue, in the same forms; they need no labels.
    genes
        Names of the genes to impute, or one name; all that reference and model know and the spots lack if `None`.
    model
        A model (``"cellplm"``: its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded
        model, which stays as it is.
    spatial_key
        Key of ``adata_sp.obsm`` with coordinates; `None` for cells without any, each of which then stands for itself.
    context_key
        Column of ``adata_sp.obs`` that names the section or field of view; all spots are one if `None`.
    reference_context_key
        Column of ``adata_sc.obs`` that names the sample.
    layer, reference_layer
        Layers with the counts, ``X`` if `None`.
    evidence
        Which of the four kinds to use.
    fine_tune
        Train a copy of the model on spots and cells first, each with its own measured genes, as published. It improves
        the decoder, which then rarely adds to the other evidence: see Notes.
    max_epochs
        Most passes of that training; as many as make about 300 steps if `None`. Refused without ``fine_tune``.
    genes_per_block
        Genes imputed at a time; chosen for the memory if `None`. Does not change the result.
    modality
        Modality of a `MuData`.
    rng
        Seed or generator, for the genes hidden, the states and training.
    key_added
        Name for the results.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.
    precision
        ``"float32"``, ``"bfloat16"`` for the matrix products, or ``"auto"``: bfloat16 on CUDA, float32 elsewhere.
    batch_size
        Cells on the device at a time when embedding; chosen for the device if `None`.
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
        for genes with very few counts (on a pancreas tumour the sparsest quarter was expected to reach 0.31 and reached
        0.23). ``"hidden_genes"``: the genes hidden to learn this, with what they reached. ``"weights"``: the exponents.
        ``"params"``: the arguments and the scale. ``"provenance"``: weights with their checksum, licence, citation,
        versions, and how the genes of both sides were matched.

    Raises
    ------
    ValueError
        If the values of either side are scaled, negative, NaN or neither counts nor log1p-normalised; if the two share
        no gene or are of different species; if a gene is unknown, not in the reference, measured already or named
        twice; if coordinates are missing, text or of the wrong shape; if a key does not exist, or an argument is out of
        range or has no effect. Nothing has been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Notes
    -----
    Spatial counts are few: of a gene with one count in ten spots no method can predict where they fall, and library
    size explains most of what can be. Read ``partial_pearson``, and see `sf.metrics.imputation`.

    With ``cellplm-mini``, fine-tuning changed nothing on average: over four spatial sets, in one hold-out of 100 genes
    each, the mean partial Pearson correlation of held-out genes was 0.077 with and without it
    (``benchmarks/imputation.py``).

    Examples
    --------
    >>> import scfoundry as sf
    >>> sf.tl.impute_spatial(spots, cells, genes=["CD3E", "MS4A1"])  # doctest: +SKIP
    >>> spots.uns["imputed"]["confidence"]  # doctest: +SKIP
    >>> sf.pl.imputed(spots, "CD3E")  # doctest: +SKIP
    """
    from scfoundry.model._base import FoundationModel
    from scfoundry.model._load import load_pretrained
    from scfoundry.model._offers import imputes

    for name, value in (("max_epochs", max_epochs), ("genes_per_block", genes_per_block), ("batch_size", batch_size)):
        if value is not None and value < 1:
            msg = f"{name} must be at least 1; got {value}. To leave the choice to the model: {name}=None."
            raise ValueError(msg)
    if max_epochs is not None and not fine_tune:
        msg = f"max_epochs={max_epochs} is of fine-tuning: fine_tune=True. The default trains nothing: leave it out."
        raise ValueError(msg)
    result, spots = to_write(adata_sp, modality, copy=copy, caller=CALLER)
    loaded = model if isinstance(model, FoundationModel) else load_pretrained(model)
    imputed = imputes(loaded, caller=CALLER).impute(
        spots,
        modality_of(adata_sc, modality),
        genes,
        context_key=context_key,
        spatial_key=spatial_key,
        reference_context_key=reference_context_key,
        layer=layer,
        reference_layer=reference_layer,
        evidence=evidence,
        fine_tune=fine_tune,
        max_epochs=max_epochs,
        genes_per_block=genes_per_block,
        seed=int(np.random.default_rng(rng).integers(2**31)),
        batch_size=batch_size,
        device=device,
        precision=precision,
    )
    params = {
        "scale": SCALES[str(imputed.values["values"])],
        "spatial_key": spatial_key,
        "context_key": context_key,
        "reference_context_key": reference_context_key,
        "layer": layer,
        "reference_layer": reference_layer,
        "evidence": list(evidence),
        "fine_tune": fine_tune,
        "max_epochs": max_epochs,
        "rng": rng if isinstance(rng, int | np.integer) else None,
        "precision": precision,
    }
    spots.obsm[key_added] = imputed.counts
    spots.uns[key_added] = {
        Keys.PARAMS: {name: value for name, value in params.items() if value is not None},
        Keys.CONFIDENCE: imputed.confidence,
        Keys.HIDDEN: imputed.hidden,
        Keys.WEIGHTS: imputed.weights,
        Keys.PROVENANCE: loaded.provenance | imputed.values,
    }
    expected = imputed.confidence.mean()
    logger.info(
        f"{loaded.provenance['weights']}: imputed {imputed.counts.shape[1]:,} genes of {spots.n_obs:,} spots; "
        + (
            f"expected correlation {expected['pearson']:.2f}, beyond library size {expected['partial_pearson']:.2f} "
            "(means over genes)."
            if expected.notna().all()
            else "how far to trust them is unknown: the panel has too few well-detected genes to hide some."
        )
    )
    return result if copy else None
