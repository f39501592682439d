"""Official files of CellLM: tensors of the encoder, and the genes, which they do not name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anndata import AnnData, read_h5ad

from scfoundry.data.genes import GeneVocabulary
from scfoundry.model.celllm._tokens import N_TOKENS
from scfoundry.nn.checkpoint import CheckpointError, account_for, read_torch_file, renamed, tensors_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scfoundry.model.celllm._module import CellLMModule

__all__ = ["find_weights", "from_released", "is_release", "read_release", "to_released"]

SUFFIX = ".pth"

# Our stem -> released stem; what follows, such as ".weight", is the same.
STEMS = {
    "levels.": "token_emb.",
    "genes.": "pos_emb.emb.",
    "norm.": "norm.",
    "level_head.": "to_out.",
    "steps_since_redraw": "performer.calls_since_last_redraw",
}
LAYER = {
    "attention_norm.": "0.norm.",
    "omega": "0.fn.fast_attention.projection_matrix",
    "query.": "0.fn.to_q.",
    "key.": "0.fn.to_k.",
    "value.": "0.fn.to_v.",
    "out.": "0.fn.to_out.",
    "norm.": "1.norm.",
    "expand.": "1.fn.fn.w1.",
    "contract.": "1.fn.fn.w2.",
}
LAYERS, RELEASED_LAYERS = "layers.", "performer.net.layers."
# Heads that no official file has: those of a model that has them start at random.
HEADS = ("tumour_head.", "contrast.")


class Release(NamedTuple):
    """An official file."""

    config: dict[str, Any]  # values that reproduce the released computation
    genes: GeneVocabulary
    tensors: dict[str, Tensor]  # by released names


def is_release(folder: Path) -> bool:
    """Whether a folder holds an official file."""
    return any(folder.glob(f"*{SUFFIX}"))


def find_weights(folder: Path, version: str | None) -> Path:
    """The official file in a folder.

    FileNotFoundError: if there is none, or not the one asked for. ValueError: if there are several to choose from.
    """
    names = sorted(path.stem for path in folder.glob(f"*{SUFFIX}"))
    if not names or (version is not None and version not in names):
        msg = (
            f"{folder} has no {version or 'ckpt'}{SUFFIX}{f'; it has {names}' if names else ''}. Official files of "
            "CellLM are linked from https://github.com/PharMolix/OpenBioMed; place ckpt.pth in the folder."
        )
        raise FileNotFoundError(msg)
    if version is None and len(names) > 1:
        msg = f"{folder} holds several files: {', '.join(names)}. Choose one: version={names[0]!r}."
        raise ValueError(msg)
    return folder / f"{version or names[0]}{SUFFIX}"


def read_release(path: Path, genes: Sequence[str] | AnnData | str | Path | None) -> Release:
    """Read an official file; ``genes`` is what the user says their order is.

    CheckpointError: if the file is damaged or holds another model. ValueError: if the genes are missing, or not as many
    as the weights have.
    """
    content = read_torch_file(path)
    named = tensors_of(content.get("model_state_dict", content), source=str(path))
    tensors = {name.removeprefix("module."): tensor for name, tensor in named.items()}
    first = f"{RELEASED_LAYERS}0.0.fn."
    needed = [*(f"{STEMS[stem]}weight" for stem in ("levels.", "genes.")), f"{first}to_q.weight"]
    needed += [f"{first}fast_attention.projection_matrix", f"{RELEASED_LAYERS}0.1.fn.fn.w1.weight"]
    if missing := [name for name in needed if name not in tensors]:
        msg = f"{path} lacks {', '.join(missing)}. Is it the checkpoint of another model?"
        raise CheckpointError(msg)
    n_genes = len(tensors["pos_emb.emb.weight"]) - 2
    return Release(read_config(tensors, path), named_genes(genes, n_genes, path), tensors)


def read_config(tensors: dict[str, Tensor], path: Path) -> dict[str, Any]:
    """Config values: sizes from the tensors, choices as released."""
    n_tokens, width = tensors["token_emb.weight"].shape
    if n_tokens != N_TOKENS:
        msg = f"{path} has {n_tokens} tokens of expression; CellLM has {N_TOKENS}. Is it a checkpoint of scBERT?"
        raise CheckpointError(msg)
    first = f"{RELEASED_LAYERS}0."
    n_features, n_head = tensors[f"{first}0.fn.fast_attention.projection_matrix"].shape
    numbers = [int(name.removeprefix(RELEASED_LAYERS).split(".")[0]) for name in tensors if RELEASED_LAYERS in name]
    return {
        "n_hidden": width,
        "n_layers": max(numbers) + 1,
        "n_heads": len(tensors[f"{first}0.fn.to_q.weight"]) // n_head,
        "n_head": n_head,
        "n_intermediate": len(tensors[f"{first}1.fn.fn.w1.weight"]),
        "n_features": n_features,
        "padding": "official",
        "truncation": "vocabulary",
        "freeze_genes": True,
        "n_contrast": 0,
        "tumour_head": False,
    }


def named_genes(genes: Sequence[str] | AnnData | str | Path | None, n_genes: int, path: Path) -> GeneVocabulary:
    """Vocabulary of the genes that a user names, a list or an AnnData (or the file of one) that has them in order."""
    load = f'sf.model.CellLM.from_pretrained("{path.parent}", genes='
    if genes is None:
        msg = (
            f"{path} does not say which {n_genes:,} genes its rows are of. Their order is that of var_names of the "
            "data released with it (Zheng68K.h5ad or Baron.h5ad, linked from https://github.com/PharMolix/OpenBioMed): "
            f'{load}"Zheng68K.h5ad"), or pass them as a list: {load}[...]). A folder that save_pretrained '
            "writes holds them."
        )
        raise ValueError(msg)
    given = read_h5ad(genes, backed="r") if isinstance(genes, str | Path) else genes
    names = list(given.var_names if isinstance(given, AnnData) else given)
    if len(names) != n_genes:
        msg = (
            f"{path} has vectors of {n_genes:,} genes, but genes names {len(names):,}. All of them are needed, in the "
            f'order of training, without <cls> and padding: {load}"Zheng68K.h5ad") takes var_names of a released data '
            "set; do not filter its genes."
        )
        raise ValueError(msg)
    return GeneVocabulary(names)


def released_name(name: str) -> str:
    """Released name of one of our tensors."""
    if not name.startswith(LAYERS):
        return renamed(name, STEMS)
    number, _, rest = name.removeprefix(LAYERS).partition(".")
    return f"{RELEASED_LAYERS}{number}.{renamed(rest, LAYER)}"


def to_released(module: CellLMModule) -> dict[str, Tensor]:
    """A module's tensors by their released names, without heads that no official file has."""
    state = module.state_dict()
    return {released_name(name): tensor for name, tensor in state.items() if not name.startswith(HEADS)}


def from_released(tensors: dict[str, Tensor], module: CellLMModule, *, source: str) -> dict[str, Tensor]:
    """A module's state but for its heads from released tensors; see `account_for` for what is refused."""
    heads = [name for name in module.state_dict() if name.startswith(HEADS)]
    ours = {released_name(name): name for name in module.state_dict().keys() - set(heads)}
    found = {ours.get(name, name): tensor for name, tensor in tensors.items()}
    return account_for(found, module, source=source, own=heads)
