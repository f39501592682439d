"""Official folders of scGPT and Celler: ``args.json``, ``vocab.json`` and a pickled dictionary of tensors."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from scfoundry.data.genes import GeneVocabulary
from scfoundry.nn.checkpoint import CheckpointError, account_for, read_json, read_torch_file, renamed, tensors_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from scfoundry.model.celler._module import CellerModule

__all__ = ["from_released", "is_release", "read_genes", "read_release", "to_released"]

ARGS_FILE, VOCABULARY_FILE, WEIGHTS_FILES = "args.json", "vocab.json", ("best_model.pt", "model.pt")
# In the order of their rows, behind those of the genes.
SPECIAL = ("<pad>", "<cls>", "<eoc>")

# Our stem -> released stem; what follows, such as ".weight", is the same. {} is the number of a layer.
STEMS = {
    "genes.": "encoder.embedding.",
    "gene_norm.": "encoder.enc_norm.",
    "values.": "value_encoder.",
    "decoder.value.": "decoder.fc.",
    "decoder.nonzero.": "decoder.zero_logit.",
    "cell_decoder.query.": "mvc_decoder.gene2query.",
    "cell_decoder.value.": "mvc_decoder.W.",
    "cell_decoder.nonzero.": "mvc_decoder.W_zero_logit.",
    "classifier.hidden.": "cls_decoder._decoder.",
    "classifier.output.": "cls_decoder.out_layer.",
    "discriminator.hidden.": "grad_reverse_discriminator._decoder.",
    "discriminator.output.": "grad_reverse_discriminator.out_layer.",
    "batches.": "batch_encoder.embedding.",
    "batch_norm.": "batch_encoder.enc_norm.",
}
LAYER = {
    "attention.out.": "self_attn.out_proj.",
    "attention_norm.": "norm1.",
    "norm.": "norm2.",
    "expand.": "linear1.",
    "contract.": "linear2.",
}
RELEASED_LAYERS = "transformer_encoder.layers."
# Rows of the joint projection, a third each.
PROJECTIONS = ("query", "key", "value")
DOMAIN = re.compile(r"dsbn\.bns\.(\d+)\.(running_mean|running_var|num_batches_tracked)")
BATCH_ROWS = ("batch_encoder.embedding.weight", "grad_reverse_discriminator.out_layer.weight")
STATISTICS = {"running_mean": "domain_norm.mean", "running_var": "domain_norm.variance"}
# May stand in the files, but are part of no computation here: the flag of generative pre-training, and a normalisation
# that old files have.
UNUSED = ("flag_encoder.", "bn.")

# Released arguments -> ours, and what else they must say.
ARGS = {
    "embsize": "n_hidden",
    "nlayers": "n_layers",
    "nheads": "n_heads",
    "d_hid": "n_intermediate",
    "dropout": "dropout",
}
FURTHER_ARGS = {"n_bins": "n_bins", "max_seq_len": "max_length"}
REQUIRED = {
    "input_emb_style": "continuous",
    "input_style": "binned",
    "pad_token": "<pad>",
    "pad_value": -2,
    "mask_value": -1,
    "pre_norm": False,
}


class Release(NamedTuple):
    """An official folder."""

    config: dict[str, Any]  # values that reproduce the released computation
    genes: GeneVocabulary
    rows: Tensor  # released row of each of our tokens
    tensors: dict[str, Tensor]  # by released names
    weights: Path  # the file that they are from


def is_release(folder: Path) -> bool:
    """Whether a folder holds official files."""
    return all((folder / name).exists() for name in (ARGS_FILE, VOCABULARY_FILE))


def read_release(folder: Path) -> Release:
    """Read an official folder.

    FileNotFoundError: if a file is missing. CheckpointError: if one is damaged, or describes another structure.
    """
    found = [name for name in WEIGHTS_FILES if (folder / name).exists()]
    missing = [name for name in (ARGS_FILE, VOCABULARY_FILE) if not (folder / name).exists()]
    missing += [] if found else [" or ".join(WEIGHTS_FILES)]
    if missing:
        msg = (
            f"{folder} lacks {', '.join(missing)}, parts of an official scGPT or Celler folder. Download them into it."
        )
        raise FileNotFoundError(msg)
    weights = folder / found[0]
    genes, rows = read_genes(folder), read_vocabulary(folder / VOCABULARY_FILE)[1]
    tensors = canonical(read_torch_file(weights), source=str(weights))
    return Release(read_config(folder / ARGS_FILE, tensors), genes, rows, tensors, weights)


def read_genes(folder: Path) -> GeneVocabulary:
    """Genes of an official folder in the order of their numbers.

    FileNotFoundError: if it holds no vocabulary. CheckpointError: if that is damaged.
    """
    path = folder / VOCABULARY_FILE
    if not path.exists():
        msg = (
            f"{folder} holds neither genes.tsv of a saved model nor {VOCABULARY_FILE} of an official scGPT or Celler. "
            "Name the folder that does, or download the files again."
        )
        raise FileNotFoundError(msg)
    names, _ = read_vocabulary(path)
    return GeneVocabulary(names, aliases=ensembl_aliases(names))


def read_vocabulary(path: Path) -> tuple[list[str], Tensor]:
    """Genes in the order of their numbers, and the released row of each of our tokens, special ones last.

    Files without special tokens number them after the genes. CheckpointError: if numbers are not 0, 1, 2, ...
    """
    numbers = read_json(path)
    for token in SPECIAL:
        numbers.setdefault(token, len(numbers))
    # Comparing types, too: to Python, True is a number.
    if not all(type(n) is int for n in numbers.values()) or set(numbers.values()) != set(range(len(numbers))):
        msg = f"{path} does not number its {len(numbers):,} tokens from 0 on, each once. Download it again."
        raise CheckpointError(msg)
    genes = sorted(numbers.keys() - set(SPECIAL), key=numbers.__getitem__)
    return genes, torch.tensor([numbers[token] for token in (*genes, *SPECIAL)])


def ensembl_aliases(names: list[str]) -> dict[str, str]:
    """Ensembl ids within names: ``SYMBOL_ENSG00000123456`` tells genes of one symbol apart."""
    found = [(match[1], name) for name in names if (match := re.fullmatch(r".+_(ENSG\d{11})", name))]
    times, known = Counter(identifier for identifier, _ in found), set(names)
    return {identifier: name for identifier, name in found if times[identifier] == 1 and identifier not in known}


def canonical(tensors: dict[str, Any], *, source: str) -> dict[str, Tensor]:
    """Tensors by one spelling of their names, whichever attention wrote them.

    Without the ``module.`` of parallel training; ``Wqkv`` of flash attention, bare or wrapped, and for ``in_proj``.
    """
    renamed = {}
    for name, tensor in tensors_of(tensors, source=source).items():
        spelled = name.removeprefix("module.").replace(".self_attn._impl.", ".self_attn.")
        renamed[spelled.replace(".in_proj_", ".Wqkv.")] = tensor
    if len(renamed) < len(tensors):
        msg = f"{source} names {len(tensors) - len(renamed)} tensors twice, in two spellings. Download it again."
        raise CheckpointError(msg)
    return renamed


def read_config(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Config values of an ``args.json``; which heads there are, the tensors say."""
    args = read_json(path)
    if missing := [key for key in ARGS if key not in args]:
        msg = (
            f"{path} lacks {', '.join(missing)}: it does not describe a model of scGPT's structure. "
            "Is it of another model?"
        )
        raise CheckpointError(msg)
    if wrong := [f"{key}={args[key]!r}" for key, value in REQUIRED.items() if args.get(key, value) != value]:
        needed = ", ".join(f"{key}={value!r}" for key, value in REQUIRED.items())
        msg = f"{path} has {', '.join(wrong)}; Celler reads models with {needed}."
        raise CheckpointError(msg)
    values = {ours: args[key] for key, ours in ARGS.items()}
    values |= {ours: args[key] for key, ours in FURTHER_ARGS.items() if key in args}
    ratios = args.get("mask_ratio", [])
    ratios = [ratio for ratio in (ratios if isinstance(ratios, list) else [ratios]) if 0 < ratio < 1]
    values |= {"mask_ratio": tuple(ratios)} if ratios else {}

    n_classes = n_rows(tensors, "cls_decoder.out_layer.weight")
    n_classes = n_classes if n_classes > 1 else 0
    numbers = [int(match[1]) + 1 for name in tensors if (match := DOMAIN.fullmatch(name))]
    n_tokens, n_discriminated = (n_rows(tensors, name) for name in BATCH_ROWS)
    n_batches = max(n_tokens, n_discriminated, *numbers, 0)
    heads = [match for name in tensors if (match := re.fullmatch(r"\w+\._decoder\.(\d+)\.weight", name))]
    return values | {
        # As published, though drawn cell by cell: see the two values in the configuration.
        "ties": "random",
        "truncation": "random",
        "cls_value": 0 if n_classes or n_batches else -2,
        "mvc": any(name.startswith("mvc_decoder.") for name in tensors),
        "explicit_zeros": any(name.startswith("decoder.zero_logit.") for name in tensors),
        "n_batches": n_batches,
        "batches": tuple(map(str, range(n_batches))),
        "batch_tokens": n_tokens > 0,
        "domain_norm": bool(numbers),
        "discriminator": n_discriminated > 0,
        "n_layers_cls": max((int(match[1]) // 3 + 2 for match in heads), default=args.get("n_layers_cls", 3)),
        "n_classes": n_classes,
        # The files do not say which.
        "classes": tuple(map(str, range(n_classes))),
    }


def n_rows(tensors: dict[str, Tensor], name: str) -> int:
    """Rows of a tensor, 0 if there is none."""
    return len(tensors[name]) if name in tensors else 0


def from_released(
    tensors: dict[str, Tensor], module: CellerModule, *, rows: Tensor | None = None, source: str
) -> dict[str, Tensor]:
    """A module's complete state from tensors by released names; see `account_for` for what is refused.

    ``rows``: released row of each of our tokens, those in their order if `None`.
    """
    one_output = n_rows(tensors, "cls_decoder.out_layer.weight") == 1
    state: dict[str, Tensor] = {}
    domains: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        # A head of one output tells no classes apart: old files and those of integration carry one along.
        if name.startswith(UNUSED) or (one_output and name.startswith("cls_decoder.")):
            continue
        if match := DOMAIN.fullmatch(name):
            if match[2] in STATISTICS:
                domains.setdefault(STATISTICS[match[2]], {})[int(match[1])] = tensor
        elif ".self_attn.Wqkv." in name and len(tensor) % len(PROJECTIONS) == 0:
            for projection, third in zip(PROJECTIONS, tensor.chunk(len(PROJECTIONS)), strict=True):
                state[our_name(name.replace(".self_attn.Wqkv.", f".attention.{projection}."))] = third
        else:
            state[our_name(name)] = tensor
    for name, by_number in domains.items():
        if sorted(by_number) != list(range(len(by_number))):
            msg = (
                f"{source} has {name} of the batches {sorted(by_number)}, not of all from 0 on. "
                "Download or save it again."
            )
            raise CheckpointError(msg)
        state[name] = torch.stack([by_number[number] for number in range(len(by_number))])
    table = state.get("genes.weight")
    if rows is not None and table is not None and len(table) == len(rows):
        state["genes.weight"] = table[rows]
    return account_for(state, module, source=source)


def our_name(released: str) -> str:
    """Our name of a tensor; the released one where we have none."""
    if released.startswith(RELEASED_LAYERS):
        number, _, rest = released.removeprefix(RELEASED_LAYERS).partition(".")
        return f"layers.{number}.{renamed(rest, {theirs: ours for ours, theirs in LAYER.items()})}"
    return renamed(released, {theirs: ours for ours, theirs in STEMS.items()})


def to_released(module: CellerModule) -> dict[str, Tensor]:
    """A module's parameters by the names of the official files, rows of tokens in our order."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        if name.startswith("domain_norm."):
            kind = next(theirs for theirs, ours in STATISTICS.items() if ours == name)
            tensors |= {f"dsbn.bns.{number}.{kind}": row for number, row in enumerate(tensor)}
        elif name.startswith("layers."):
            _, number, rest = name.split(".", 2)
            released = renamed(rest, LAYER)
            if match := re.fullmatch(r"attention\.(query|key|value)\.(\w+)", rest):
                released = f"self_attn.Wqkv.{match[2]}"
                tensor = torch.cat([tensors.get(f"{RELEASED_LAYERS}{number}.{released}", tensor[:0]), tensor])
            tensors[f"{RELEASED_LAYERS}{number}.{released}"] = tensor
        else:
            tensors[renamed(name, STEMS)] = tensor
    return tensors
