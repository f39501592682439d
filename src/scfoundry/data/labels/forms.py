"""Labels of cell types reduced to what they say: case, plural, signs, Greek letters and word order do not matter."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

__all__ = ["MARKER_SIGNS", "Key", "key_of", "label_key", "tokens"]

Key = tuple[str, ...]

# The sign of a marker, as the last character of its token.
POSITIVE, NEGATIVE, HIGH, LOW = MARKER_SIGNS = ("+", "~", "^", "_")

OR = "|"

_GREEK = {"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "κ": "kappa", "λ": "lambda"}
_PLAIN = str.maketrans({**dict.fromkeys("‐‑‒–—−⁻", "-"), **{letter: f" {name} " for letter, name in _GREEK.items()}})
_MACROPHAGE = re.compile("m[φϕ]")
_PRIME = re.compile(r"(?<=\d)['’′]")
_SIGN = re.compile(r"(?<=[a-z0-9])[ -]?(positive|pos|negative|neg)\b")
_MARKER = r"(\b[a-z]+\d[a-z0-9]*?|\big[adegm]|\blin)"
_LEVEL = re.compile(_MARKER + r"[ -]?(high|hi|bright|low|lo|dim)\b")
_MINUS = re.compile(_MARKER + r"-(?=$|[\s,;/)]|cd\d)")
_SPELLING = re.compile(r"\bnon[ -]|\btype (?:iii|ii|i)\b|haem|oesoph|tumour|leuco|foetal|centre|['’]")
_SPELLED = {
    "non ": "non",
    "non-": "non",
    "type i": "type 1",
    "type ii": "type 2",
    "type iii": "type 3",
    "haem": "hem",
    "oesoph": "esoph",
    "tumour": "tumor",
    "leuco": "leuko",
    "foetal": "fetal",
    "centre": "center",
    "'": "",
    "’": "",
}
_LEVELS = {"high": HIGH, "hi": HIGH, "bright": HIGH, "low": LOW, "lo": LOW, "dim": LOW}
# Of two alternatives; the slash in L2/3 is none.
_OR = re.compile(r"(?<!\d)\s*/|/\s*(?!\d)|&|(?<=\s)(?:and|or|\+)(?=\s)")
_GLUED_CELL = re.compile(r"(?<=[a-z0-9])cells?\b")
_TOKEN = re.compile(r"[a-z0-9]+[+~^_]?|\|")
_CD = re.compile(r"cd\d+[a-z]*")

_SILENT = frozenset({"of", "the"})
# Short forms that mean the same word in every label; those that mean a whole label stand in the table of aliases.
_WORDS = {
    "astro": "astrocyte",
    "cdc": "conventional dendritic",
    "ctl": "cytotoxic t",
    "dc": "dendritic",
    "ec": "endothelial",
    "endo": "endothelial",
    "endothelium": "endothelial",
    "exc": "excitatory",
    "fib": "fibroblast",
    "fibro": "fibroblast",
    "gc": "germinal center",
    "glia": "glial",
    "inh": "inhibitory",
    "mac": "macrophage",
    "mdc": "myeloid dendritic",
    "megakaryo": "megakaryocyte",
    "mem": "memory",
    "microglia": "microglial",
    "mk": "megakaryocyte",
    "mono": "monocyte",
    "mph": "macrophage",
    "neut": "neutrophil",
    "neutro": "neutrophil",
    "nk": "natural killer",
    "nkt": "natural killer t",
    "oligo": "oligodendrocyte",
    "pdc": "plasmacytoid dendritic",
    "prog": "progenitor",
    "prolif": "proliferating",
    "reg": "regulatory",
    "smc": "smooth muscle",
    "stroma": "stromal",
    "tcm": "central memory t",
    "tem": "effector memory t",
    "treg": "regulatory t",
    "vsmc": "vascular smooth muscle",
}
_MARKER_NAMES = {"fcgr3a": "cd16", "ncam1": "cd56", "ms4a1": "cd20", "il3ra": "cd123"}


def tokens(label: str) -> Key:
    """Words of a label in its order, each in one spelling; a marker ends in its sign, a bar parts alternatives.

    >>> tokens("FCGR3A+ Monocytes/DC")
    ('cd16+', 'monocyte', '|', 'dendritic')
    """
    text = label.lower()
    if not text.isascii():
        text = _MACROPHAGE.sub("macrophage", unicodedata.normalize("NFKC", text).lower()).translate(_PLAIN)
    text = _OR.sub(f" {OR} ", text.replace("_", " ").replace("++", HIGH))
    text = _PRIME.sub(" prime ", text)
    text = _SIGN.sub(lambda found: POSITIVE if found[1].startswith("p") else NEGATIVE, text)
    text = _LEVEL.sub(lambda found: f"{found[1]}{_LEVELS[found[2]]} ", text)
    text = _MINUS.sub(rf"\1{NEGATIVE} ", text)
    text = _SPELLING.sub(lambda found: _SPELLED[found[0]], text)
    if not text.isascii():
        text = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    words: list[str] = []
    for token in _TOKEN.findall(_GLUED_CELL.sub(" cell", text)):
        words += _word(token)
    return tuple(words)


def label_key(label: str) -> Key:
    """What two spellings of the same label share: its words, sorted, without those that say nothing.

    >>> label_key("CD14-positive monocyte") == label_key("CD14+ Monocytes") == label_key("Mono CD14")
    True
    """
    return key_of(tokens(label))


def key_of(words: Key) -> Key:
    """Key of a label from its words."""
    kept = [word for word in words if word not in _SILENT]
    present = set(kept)
    if present != {"cell"}:
        kept = [word for word in kept if word != "cell"]
    if "lymphocyte" in present and not present.isdisjoint({"t", "b"}):
        kept.remove("lymphocyte")
    # T NK is a union, NK T a type.
    if ("t", "natural") in pairwise(kept):
        kept.append(OR)
    # Data sets name the alpha-beta T cells by their co-receptor alone.
    if {"t", "alpha", "beta"} <= present and not present.isdisjoint({"cd4+", "cd8+"}):
        kept.remove("alpha")
        kept.remove("beta")
        kept = [word for word in kept if word not in {"thymus", "derived"}]
    return tuple(sorted(kept))


def _word(token: str) -> list[str]:
    if token == OR:
        return [OR]
    sign = token[-1] if token[-1] in MARKER_SIGNS else ""
    word = token.removesuffix(sign)
    if sign or _CD.fullmatch(word):
        return [_MARKER_NAMES.get(word, word) + (sign or POSITIVE)]
    singular = _singular(word)
    return _WORDS.get(singular, singular).split()


def _singular(word: str) -> str:
    if len(word) < 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    return f"{word[:-3]}y" if word.endswith("ies") else word[:-1]
