"""The registry of weights: what there is, under which licence, and where it rests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from scfoundry._settings import settings
from scfoundry.model import _hub as hub
from scfoundry.model._download import download

__all__ = ["DEFAULTS", "REGISTRY", "Weights", "is_available", "locate"]

PACKAGE = Path(__file__).parent

# Model -> weights that `model="cellplm"` means.
DEFAULTS = {name: f"{name}-mini" for name in ("cellplm", "langcell", "cellnamer", "celler", "celllm", "scpalm")}


class Remote(NamedTuple):
    """A file that can be downloaded."""

    url: str
    sha256: str
    size: int  # bytes


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One set of weights in the registry."""

    name: str
    model: str
    parameters: int  # how many
    megabytes: float
    licence: str
    citation: str
    trained_on: str
    source: str  # "shipped" with the package, "download", or the page where the files have to be fetched by hand
    files: dict[str, Remote | None] = field(default_factory=dict)  # None: fetched by hand
    lacks: tuple[str, ...] = ()  # verbs that other weights of the model serve


CELLPLM_PAPER = "Wen et al. 2024, CellPLM: Pre-training of Cell Language Model Beyond Single Cells, ICLR"
CELLPLM_FILES = "https://www.dropbox.com/scl/fo/i5rmxgtqzg7iykt2e9uqm/h?rlkey=o8hi0xads9ol07o48jdityzv1&dl=0"
CELLPLM_DATA = "11.4 million human cells: HTCA, HCA, GEO, and CosMx lung cancer"


def _cellplm_release(version: str, parameters: int) -> Weights:
    return Weights(
        name=f"cellplm-{version.lower().replace('_', '-')}",
        model="cellplm",
        parameters=parameters,
        megabytes=330,
        licence="BSD-2-Clause",
        citation=CELLPLM_PAPER,
        trained_on=CELLPLM_DATA,
        source=CELLPLM_FILES,
        files={f"{version}.config.json": None, f"{version}.best.ckpt": None},
    )


LANGCELL_PAPER = "Zhao et al. 2024, LangCell: Language-Cell Pre-training for Cell Identity Understanding, ICML"
LANGCELL_FILES = "https://github.com/PharMolix/LangCell"
LANGCELL_DATA = "27.5 million human cells of scLibrary (CELLxGENE) with their metadata as text"

LANGCELL_RELEASE = Weights(
    name="langcell-sclibrary",
    model="langcell",
    parameters=172_172_290,
    megabytes=690,
    licence="MIT",
    citation=LANGCELL_PAPER,
    trained_on=LANGCELL_DATA,
    source=LANGCELL_FILES,
    files=dict.fromkeys(
        (
            "cell_bert/config.json",
            "cell_bert/pytorch_model.bin",
            "text_bert/config.json",
            "text_bert/pytorch_model.bin",
            "cell_proj.bin",
            "text_proj.bin",
            "ctm_head.bin",
            "geneformer/gene_median_dictionary.pkl",
            "geneformer/token_dictionary.pkl",
            "text_tokenizer/vocab.txt",
        )
    ),
)


CELLLM_PAPER = (
    "Zhao et al. 2023, Large-Scale Cell Representation Learning via Divide-and-Conquer Contrastive Learning, "
    "arXiv:2306.04371"
)

CELLLM_RELEASE = Weights(
    name="celllm-50m",
    model="celllm",
    parameters=51_926_536,
    megabytes=250,
    licence="MIT (OpenBioMed); none is named for the weights",
    citation=CELLLM_PAPER,
    trained_on="1.8 million human cells: PanglaoDB (normal) and CancerSCEM (tumours)",
    source="https://github.com/PharMolix/OpenBioMed",
    files={"ckpt.pth": None},
    lacks=("discriminate_tumour",),
)


SCGPT_PAPER = (
    "Cui et al. 2024, scGPT: toward building a foundation model for single-cell multi-omics using generative AI, "
    "Nature Methods 21:1470-1480"
)
SCGPT_FILES = "https://github.com/bowang-lab/scGPT#pretrained-scgpt-model-zoo"
CELLER_PAPER = (
    "Zhao et al. 2025, Celler: A Genomic Language Model for Long-Tailed Single-Cell Annotation, arXiv:2504.00020"
)
CELLER_FILES = "https://github.com/AI4science-ym/HiCeller"


def _scgpt_release(name: str, trained_on: str, *, parameters: int) -> Weights:
    return Weights(
        name=f"scgpt-{name}",
        model="celler",
        parameters=parameters,
        megabytes=round(4 * parameters / 1e6),
        licence="MIT",
        citation=SCGPT_PAPER,
        trained_on=trained_on,
        source=SCGPT_FILES,
        files={"args.json": None, "vocab.json": None, "best_model.pt": None},
    )


def _celler_release(tissue: str) -> Weights:
    return Weights(
        name=f"celler-{tissue}",
        model="celler",
        parameters=51_357_000,  # about: with 50 classes, of which each has 513
        megabytes=205,
        licence="academic use only; the repository names none",
        citation=CELLER_PAPER,
        trained_on=f"human cells of Celler-75: {tissue}",
        source=CELLER_FILES,
        files={"args.json": None, "vocab.json": None, "model.pt": None},
    )


# Those of organs have a smaller vocabulary. Celler describes its files as the same network with a head.
SCGPT_RELEASES = (
    _scgpt_release("whole-human", "33 million normal human cells (CELLxGENE)", parameters=51_329_025),
    *(
        _scgpt_release(organ, f"{cells} human cells (CELLxGENE): {organ}", parameters=38_978_049)
        for organ, cells in {
            "brain": "13.2 million",
            "blood": "10.3 million",
            "heart": "1.8 million",
            "lung": "2.1 million",
            "kidney": "814 thousand",
            "pan-cancer": "5.7 million",
        }.items()
    ),
)
CELLER_TISSUES = ("lung", "skin", "kidney", "brain", "liver", "cortex", "breast")


def _shipped(model: str, name: str) -> Weights:
    folder = PACKAGE / model / "weights" / name
    saved = json.loads((folder / "config.json").read_text())
    return Weights(
        name=name,
        model=model,
        parameters=saved["parameters"],
        megabytes=round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1),
        licence=saved["licence"],
        citation=saved["citation"],
        trained_on=saved["trained_on"],
        source="shipped",
    )


REGISTRY = {
    weights.name: weights
    for weights in (
        _shipped("cellplm", "cellplm-mini"),
        _cellplm_release("20230926_85M", 82_402_543),
        _cellplm_release("20231027_85M", 82_360_031),
        _shipped("langcell", "langcell-mini"),
        LANGCELL_RELEASE,
        _shipped("cellnamer", "cellnamer-mini"),
        _shipped("celler", "celler-mini"),
        _shipped("celllm", "celllm-mini"),
        _shipped("scpalm", "scpalm-mini"),
        CELLLM_RELEASE,
        *SCGPT_RELEASES,
        *map(_celler_release, CELLER_TISSUES),
    )
}


def locate(source: str | Path) -> Path:
    """Folder of the weights, downloaded first where they can be."""
    if str(source).startswith(hub.PREFIX):
        return hub.fetch(str(source))
    name = DEFAULTS.get(str(source), str(source))
    if name not in REGISTRY:
        folder = Path(source).expanduser()
        if folder.is_dir():
            return folder
        msg = f"No weights {str(source)!r}: there is no such folder, and the registry has {', '.join(REGISTRY)}."
        raise FileNotFoundError(msg)
    weights = REGISTRY[name]
    folder = folder_of(weights)
    for file, remote in weights.files.items():
        if remote is not None:
            download(remote.url, folder / file, remote.sha256, remote.size)
        elif not (folder / file).exists():
            msg = (
                f"The weights {name!r} cannot be downloaded automatically. Open {weights.source}, download "
                f"{', '.join(weights.files)}, and place them in {folder} (or load them from any folder: "
                f"from_pretrained(folder))."
            )
            raise FileNotFoundError(msg)
    return folder


def folder_of(weights: Weights) -> Path:
    """Where the files of these weights rest."""
    if weights.source == "shipped":
        return PACKAGE / weights.model / "weights" / weights.name
    return settings.cache_dir / weights.name


def is_available(weights: Weights) -> bool:
    """Whether all files are on this machine."""
    return weights.source == "shipped" or all((folder_of(weights) / file).exists() for file in weights.files)
