"""Official LangCell files: two BERT folders, three linear layers, Geneformer's dictionaries and a tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scfoundry.data.genes import GeneVocabulary
from scfoundry.data.tokens.ranks import FIRST_GENE
from scfoundry.model._pickles import read_plain_pickle
from scfoundry.nn.checkpoint import CheckpointError, account_for, read_json, read_text, read_torch_file, tensors_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from scfoundry.model.langcell._module import LangCellModule

__all__ = ["from_released", "read_genes", "read_release", "to_released"]

# Our name -> released name; {} is the number of a layer.
LAYER = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "context_attention.query": "crossattention.self.query",
    "context_attention.key": "crossattention.self.key",
    "context_attention.value": "crossattention.self.value",
    "context_attention.out": "crossattention.output.dense",
    "context_norm": "crossattention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "norm": "output.LayerNorm",
}
EMBEDDINGS = {
    "tokens": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "segments": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
}
# Our part -> folder or file.
ENCODERS = {"cell": "cell_bert", "text": "text_bert"}
HEADS = {"cell_projection": "cell_proj", "text_projection": "text_proj", "match_head": "ctm_head"}

# May stand in the files, but is part of no computation: buffers, a pooler that projections replace, and the head that
# guessed masked genes.
UNUSED_STEMS = ("embeddings.position_ids", "pooler.", "cls.predictions.", "lm_head.")

# Released config key -> ours, without the "n_text_"/"text_" of the second encoder.
CONFIG = {
    "hidden_size": "n_{}hidden",
    "num_hidden_layers": "n_{}layers",
    "num_attention_heads": "n_{}heads",
    "intermediate_size": "n_{}intermediate",
    "hidden_act": "{}activation",
    "hidden_dropout_prob": "{}dropout",
    "max_position_embeddings": "max_{}length",
}
TOKENIZER_FOLDERS = ("text_tokenizer", "tokenizer", "tokenizer/BiomedBERT", "text_bert", ".")
SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
DICTIONARIES = ("gene_median_dictionary.pkl", "token_dictionary.pkl")
DICTIONARY_FOLDERS = (".", "geneformer", "geneformer_001/geneformer")


def released_name(name: str) -> str:
    """Released name of one of our parameters, its folder or file in front."""
    part, _, rest = name.partition(".")
    if part in HEADS:
        return f"{HEADS[part]}.{rest}"
    stem, _, suffix = rest.rpartition(".")
    if stem.startswith("layers."):
        _, number, layer = stem.split(".", 2)
        return f"{ENCODERS[part]}.encoder.layer.{number}.{LAYER[layer]}.{suffix}"
    return f"{ENCODERS[part]}.{EMBEDDINGS[stem]}.{suffix}"


def released_names(module: LangCellModule) -> dict[str, str]:
    """Our name -> released name of every parameter but those of a classification head, for which there is no file."""
    parts = ENCODERS.keys() | HEADS.keys()
    return {name: released_name(name) for name in module.state_dict() if name.partition(".")[0] in parts}


def to_released(module: LangCellModule) -> dict[str, dict[str, Tensor]]:
    """A module's parameters as the official files hold them: file or folder -> released name -> tensor."""
    files: dict[str, dict[str, Tensor]] = {}
    tensors = module.state_dict()
    for name, full_name in released_names(module).items():
        file, _, released = full_name.partition(".")
        files.setdefault(file, {})[released] = tensors[name]
    return files


def from_released(files: dict[str, dict[str, Tensor]], module: LangCellModule, *, source: str) -> dict[str, Tensor]:
    """A module's complete state from released tensors; see `account_for` for what is refused."""
    ours = {released: name for name, released in released_names(module).items()}
    state = {}
    for file, tensors in files.items():
        for full_name, tensor in tensors.items():
            name = full_name.removeprefix("bert.")
            if not name.startswith(UNUSED_STEMS):
                released = f"{file}.{name}"
                state[ours.get(released, released)] = tensor
    return account_for(state, module, source=source)


def read_release(folder: Path) -> tuple[dict[str, Any], GeneVocabulary, dict[str, dict[str, Tensor]]]:
    """Read an official folder.

    Returns config values, vocabulary with medians, and released tensors by file. FileNotFoundError: if a part is
    missing, with what it is and where it comes from. CheckpointError: if a file is damaged, or holds more than tensors,
    strings and numbers.
    """
    weights = [folder / name / "pytorch_model.bin" for name in ENCODERS.values()]
    weights += [folder / f"{name}.bin" for name in HEADS.values()]
    configs = [folder / name / "config.json" for name in ENCODERS.values()]
    missing = [str(path.relative_to(folder)) for path in (*weights, *configs) if not path.exists()]
    if missing:
        msg = f"{folder} lacks {', '.join(missing)}, parts of the official LangCell release. Download them into it."
        raise FileNotFoundError(msg)
    genes = read_genes(folder)
    names = (*ENCODERS.values(), *HEADS.values())
    files = {
        name: tensors_of(read_torch_file(path), source=str(path)) for name, path in zip(names, weights, strict=True)
    }
    return read_config(folder, files), genes, files


def read_config(folder: Path, files: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    """Config values that reproduce the released computation."""
    values: dict[str, Any] = {"mixture": "released"}
    for part, name in ENCODERS.items():
        released = read_bert_config(folder / name / "config.json")
        prefix = "text_" if part == "text" else ""
        values |= {ours.format(prefix): released[key] for key, ours in CONFIG.items()}
    values["text_vocabulary"] = read_vocabulary(folder)
    n_words = rows(files, "text_bert", f"{EMBEDDINGS['tokens']}.weight", folder)
    return values | {"n_words": n_words, "n_latent": rows(files, "cell_proj", "weight", folder)}


def read_bert_config(path: Path) -> dict[str, Any]:
    """Structure of one BERT."""
    released = read_json(path)
    if missing := [key for key in CONFIG if key not in released]:
        msg = (
            f"{path} lacks {', '.join(missing)}: it does not describe a BERT as LangCell's are. Is it of another model?"
        )
        raise CheckpointError(msg)
    if released.get("position_embedding_type", "absolute") != "absolute":
        msg = (
            f"{path.parent} has {released['position_embedding_type']!r} positions; LangCell's are 'absolute'. Is it of "
            "another model?"
        )
        raise CheckpointError(msg)
    return released


def rows(files: dict[str, dict[str, Tensor]], file: str, name: str, folder: Path) -> int:
    """Number of rows of a released tensor."""
    found = [tensor for full_name, tensor in files[file].items() if full_name.removeprefix("bert.") == name]
    if not found:
        msg = f"{file} of {folder} has no {name}. Is it the checkpoint of another model?"
        raise CheckpointError(msg)
    return len(found[0])


def read_vocabulary(folder: Path) -> tuple[str, ...]:
    """Word pieces of the text tokenizer.

    FileNotFoundError: if there is no ``vocab.txt`` in any of the usual places.
    """
    for place in TOKENIZER_FOLDERS:
        path = folder / place / "vocab.txt"
        if path.exists():
            pieces = tuple(read_text(path).splitlines())
            if missing := [piece for piece in SPECIAL_PIECES if piece not in pieces]:
                msg = f"{path} lacks {', '.join(missing)}: it is no vocabulary of a BERT. Download it again."
                raise CheckpointError(msg)
            return pieces
    msg = (
        f"{folder} has no text tokenizer. LangCell's checkpoint comes without one: download vocab.txt of "
        "https://huggingface.co/microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract-fulltext "
        f"to {folder / TOKENIZER_FOLDERS[0]}."
    )
    raise FileNotFoundError(msg)


def read_genes(folder: Path) -> GeneVocabulary:
    """Genes in token order with their medians, from Geneformer's dictionaries.

    FileNotFoundError: if the dictionaries are missing. CheckpointError: if their tokens are not numbered as Geneformer
    numbers them.
    """
    places = [p for p in DICTIONARY_FOLDERS if all((folder / p / name).exists() for name in DICTIONARIES)]
    if not places:
        msg = (
            f"{folder} has no {' and '.join(DICTIONARIES)}. They are Geneformer's (30M corpus): "
            "download them from https://github.com/PharMolix/LangCell, folder geneformer_001/geneformer, "
            f"to {folder / 'geneformer'}."
        )
        raise FileNotFoundError(msg)
    place = folder / places[0]
    medians, numbers = (read_plain_pickle(place / name) for name in DICTIONARIES)
    if text := [gene for values in (medians, numbers) for gene, value in values.items() if isinstance(value, str)]:
        msg = f"The dictionaries of {place} hold text for {', '.join(text[:3])}, not numbers. Download them again."
        raise CheckpointError(msg)
    tokens = {gene: int(token) for gene, token in numbers.items()}
    genes = sorted((gene for gene in tokens if not gene.startswith("<")), key=tokens.__getitem__)
    in_order = [tokens[gene] for gene in genes] == list(range(FIRST_GENE, FIRST_GENE + len(genes)))
    if not in_order or set(genes) != set(medians):
        msg = (
            f"The dictionaries of {place} do not number the genes that have medians from {FIRST_GENE} on. "
            "Download both again: they belong together."
        )
        raise CheckpointError(msg)
    return GeneVocabulary(genes, medians=np.array([medians[gene] for gene in genes], dtype=np.float64))
