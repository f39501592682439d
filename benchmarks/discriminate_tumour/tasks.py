"""Whole studies that are held out, which of their cells are to be told apart, and studies that peers learn from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import anndata as ad

from benchmarks import tumour

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from scfoundry.data.genes import GeneVocabulary

__all__ = ["HELD_OUT", "LEFT_OUT", "TRAINING", "Task", "read", "tasks", "training"]

# Studies that are scored, and whether their samples are tumours.
HELD_OUT = {
    "oligodendroglioma_184": True,
    "breast_cancer_wu_cid4465": True,
    "pdac_a_indrop": True,
    "pancreas_islet_baron_h1": False,
    "pbmc_hao_1336": False,
}
# What weights must not have seen: those, a section of the same tumour, and a study with some of the same cells.
LEFT_OUT = (*HELD_OUT, "pdac_a_st", "pancreas_cepo_528")
# Studies of cells with genes enough that peers learn from.
TRAINING = {
    "breast_tumour_copykat_302": True,
    "breast_tumour_immune_1000": True,
    "melanoma_tcells_550": True,
    "pbmc3k": False,
    "kang_ifnb_2000": False,
    "lymph_node_ref_330": False,
    "liver_he_2839": False,
}
# Tumours against normal tissue of other studies: of the same organ and technology; all together.
ACROSS = {
    "pancreas: tumour, islets": ("pdac_a_indrop", "pancreas_islet_baron_h1"),
    "all: tumours, normal tissue": tuple(HELD_OUT),
}


class Task(NamedTuple):
    """Cells to be told apart."""

    name: str
    studies: tuple[str, ...]
    within: bool  # malignant cells from normal ones of the same tumour, which is not what the label says


def tasks() -> list[Task]:
    """Within each tumour, and across studies."""
    within = [Task(f"{study}: malignant, others", (study,), within=True) for study in tumour.MALIGNANT]
    return within + [Task(name, studies, within=False) for name, studies in ACROSS.items()]


def read(folder: Path, vocabulary: GeneVocabulary, n_cells: int, seed: int) -> dict[str, ad.AnnData]:
    """Cells of every study, drawn at random, with ``obs["tumour"]``."""
    found = {}
    for study, is_tumour in (HELD_OUT | TRAINING).items():
        found[study] = tumour.drawn(tumour.read(folder, study, vocabulary), n_cells, seed)
        found[study].obs["tumour"] = is_tumour
    return found


def training(studies: dict[str, ad.AnnData], task: Task) -> tuple[ad.AnnData, ad.AnnData, NDArray[np.bool_]]:
    """Cells to learn from and those of a task, over the genes that all of these studies measured, and the truth."""
    both = ad.concat([studies[name] for name in (*TRAINING, *task.studies)], join="inner")
    scored = both.obs["study"].isin(task.studies).to_numpy()
    truth = both.obs.loc[scored, "malignant" if task.within else "tumour"].to_numpy(dtype=bool)
    return both[~scored].copy(), both[scored].copy(), truth
