"""What only CellPLM does with perturbations: a gene replaced after the log, an expression head."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from scfoundry._device import Compute
from scfoundry.data.matrix.cells import Cells
from scfoundry.model.cellplm._replaced_genes import replaced
from scfoundry.nn.counts import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    import scfoundry as sf

CPU = Compute(torch.device("cpu"), "float32")


def test_the_value_is_replaced_after_the_log_in_every_cell(make_adata: Callable[..., AnnData]) -> None:
    log = SparseCounts.from_csr(make_adata(20).X).log_normalised("cp10k")
    changed = replaced(log, [3, 7], -100.0)
    dense = torch.zeros(20, 40)
    dense[log.rows, log.genes] = log.values
    dense[:, [3, 7]] = -100.0
    found = torch.zeros(20, 40)
    found[changed.rows, changed.genes] = changed.values
    torch.testing.assert_close(found, dense)
    assert len(changed.values) == len(torch.unique(changed.rows * 40 + changed.genes))
    torch.testing.assert_close(replaced(log, [], -100.0).values, log.values)


def test_the_replacement_reaches_the_encoder_for_genes_nobody_measured(
    make_adata: Callable[..., AnnData], tiny_model: Callable[..., sf.model.CellPLM]
) -> None:
    adata = make_adata(20)
    adata.X = sparse.csr_matrix(adata.X.multiply(np.arange(40) != 5))
    model = tiny_model()
    cells = Cells.of(adata, model.genes, caller="test")
    shifts = model.replaced_gene_shifts(cells, {"measured": 3, "unmeasured": 5}, -100.0, CPU)
    assert np.linalg.norm(shifts["measured"]) > 1e-3
    assert np.linalg.norm(shifts["unmeasured"]) > 1e-3
    assert not np.allclose(shifts["measured"], shifts["unmeasured"])
    # A gene that is not expressed and stays so moves nothing; any other value does.
    unmoved = model.replaced_gene_shifts(cells, {"unmeasured": 5}, 0.0, CPU)["unmeasured"]
    np.testing.assert_allclose(unmoved, 0, atol=1e-6)
    milder = model.replaced_gene_shifts(cells, {"unmeasured": 5}, -1.0, CPU)["unmeasured"]
    assert not np.allclose(milder, shifts["unmeasured"])


def test_fine_tuning_lowers_the_error_and_leaves_the_model_as_it_was(
    make_adata: Callable[..., AnnData], tiny_model: Callable[..., sf.model.CellPLM]
) -> None:
    model, cells = tiny_model(), Cells.of(make_adata(40), tiny_model().genes, caller="test")
    before = {name: weight.clone() for name, weight in model.module.state_dict().items()}
    genes, profiles = np.arange(40), np.tile(np.array([[1.0], [3.0], [0.0]]), 40)
    conditions = [("all", []), ("all", [2]), ("all", [7])]
    how = {"value": -100.0, "seed": 0, "compute": CPU}

    def error(max_epochs: int) -> float:
        tuned, head = model.fine_tune_perturbations(cells, conditions, profiles, genes, max_epochs=max_epochs, **how)
        assert {name.split(".")[0] for name in head} == {"layers"}
        changes = tuned.replaced_gene_changes(cells, head, [[2], [7]], -100.0, CPU)
        assert changes.shape == (2, 40)
        return float(np.abs(changes - (profiles[1:] - profiles[0])).mean())

    assert error(60) < error(1)
    assert all((weight == before[name]).all() for name, weight in model.module.state_dict().items())
