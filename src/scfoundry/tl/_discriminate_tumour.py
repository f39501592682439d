"""Which cells come from a tumour."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from scfoundry._arguments import checks_arguments
from scfoundry._keys import Keys, Units
from scfoundry.data.modality import to_write
from scfoundry.tl._opening import announce, open_model, record, write_results

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from mudata import MuData

    from scfoundry._device import Precision
    from scfoundry.model import FoundationModel

__all__ = ["discriminate_tumour"]

CALLER = "sf.tl.discriminate_tumour"


@checks_arguments
def discriminate_tumour(
    adata: AnnData | MuData,
    *,
    model: str | Path | FoundationModel = "celllm",
    layer: str | None = None,
    modality: str = Keys.RNA,
    key_added: str = Keys.TUMOUR_PROBABILITY,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int | None = None,
    copy: bool = False,
) -> AnnData | MuData | None:
    """Probability that a cell comes from a tumour, as a model learned it in pre-training :cite:p:`zhao2023celllm`.

    .. warning::

       The label "tumour" is confounded with the study that it was learned from. A cell counted as of a tumour if its
       sample was one, normal cells of that sample included; and studies of tumours differ from those of normal tissue
       by technology, tissue and laboratory, too. A high probability may tell the study rather than the tumour. Every
       call says so (`UserWarning`).

    Each cell is read by itself: the others of the data set play no part.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, or else log1p-normalised values; in memory, backed, dask, or in a `MuData`.
    model
        A model's name (its default weights), a name of `sf.model.list_pretrained`, a folder, or a loaded model that
        learned from tumours and normal tissue: a `sf.model.CellLM` that was trained with ``tumour_key``. Official files
        have no such head.
    layer, modality, key_added
        Layer with the values (``X`` if `None`), modality of a `MuData`, and name for the results.
    device, precision, batch_size
        As in `sf.tl.embed`.
    copy
        Return a changed copy, in memory, instead of changing ``adata``.

    Returns
    -------
    `None`, or the copy if ``copy=True``. With ``key_added`` for ``tumour_probability``, sets:

    ``adata.obs["tumour_probability"]``
        Probability, float32, from 0 to 1; NaN where no gene of the model is expressed. For as many cells of tumours as
        of normal tissue if the model learned from as many: where tumours are rare, it is too high.
    ``adata.uns["tumour_probability"]``
        ``"params"``: the arguments; ``"warning"``: the text above; ``"provenance"``: weights with their checksum, what
        they learned from, licence, citation, versions, and how each gene was matched.

    Raises
    ------
    ValueError
        If the values are scaled, negative, NaN or neither counts nor log1p-normalised; too few genes are known; an
        argument is out of range; the model has no head for tumours, or one that learned nothing; a GPU is not there; or
        ``adata`` is a view of data on disk. Nothing has been computed then, and nothing written.
    FileNotFoundError
        If there are no such weights.

    Notes
    -----
    ``python -m benchmarks discriminate_tumour`` scores weights on whole studies that were left out of their training,
    beside logistic regression and a score of copy numbers. Run it before you rely on weights of your own.

    Examples
    --------
    >>> import scanpy as sc, scfoundry as sf
    >>> cells = sc.datasets.pbmc68k_reduced().raw.to_adata()  # yours: with cells of tumours and of normal tissue
    >>> cells.obs["tissue"] = ["tumour", "normal"] * (cells.n_obs // 2)
    >>> sf.model.CellLM.setup_anndata(cells, tumour_key="tissue")
    >>> model = sf.model.CellLM(cells, n_layers=2, n_hidden=32, n_heads=2, n_head=16, n_features=16)
    >>> model.train(max_epochs=1)
    >>> sf.tl.discriminate_tumour(cells, model=model)
    >>> cells.obs["tumour_probability"]
    """
    from scfoundry._device import Compute
    from scfoundry.data.matrix.cells import Cells
    from scfoundry.model._capabilities import DiscriminatesTumour
    from scfoundry.tasks.tumour import CONFOUNDED, tumour_probabilities

    adata, target = to_write(adata, modality, copy=copy, caller=CALLER)
    compute = Compute.resolve(device, precision, batch_size)
    discriminating = open_model(model, DiscriminatesTumour, caller=CALLER)
    cells = Cells.of(target, discriminating.genes, layer=layer, caller=CALLER)

    announce(discriminating, compute, cells)
    warnings.warn(CONFOUNDED, UserWarning, stacklevel=3)
    probabilities = tumour_probabilities(discriminating, cells, compute=compute)

    origin = record(discriminating, cells, {"layer": layer, "precision": precision}) | {Keys.WARNING: CONFOUNDED}
    slots = {f"obs/{key_added}": probabilities, f"uns/{key_added}": origin}
    write_results(target, slots, units=Units.PROBABILITY, caller=CALLER, undefined=cells.empty)
    return adata if copy else None
