"""Word pieces of a text (Wu et al. 2016), as the text encoder reads them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from scfoundry.model.langcell._word_pieces import learn_pieces
from scfoundry.nn.sequences import TokenLists

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Tokenizer", "learn_vocabulary"]

PAD, UNKNOWN, START, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, START, END, MASK)


class Tokenizer:
    """Lower-casing word piece tokenizer.

    ``max_length``: most pieces of a text, ``[CLS]`` and ``[SEP]`` included.
    """

    def __init__(self, vocabulary: Sequence[str], *, max_length: int) -> None:
        ids = {piece: i for i, piece in enumerate(vocabulary)}
        missing = [piece for piece in SPECIAL if piece not in ids]
        if missing:
            msg = f"The text vocabulary lacks {', '.join(missing)}; it starts with {list(vocabulary[:5])}."
            raise ValueError(msg)
        from transformers import BertTokenizer

        self._tokenizer, self._max_length = BertTokenizer(vocab=ids), max_length

    def __call__(self, texts: Sequence[str]) -> TokenLists:
        """Word pieces of every text."""
        encoded = self._tokenizer(list(texts), truncation=True, max_length=self._max_length)
        return TokenLists.of(encoded["input_ids"])


def learn_vocabulary(texts: Iterable[str], size: int) -> tuple[str, ...]:
    """Word pieces that spell a collection of texts, the special ones first; the order of the texts plays no part.

    ``size``: most pieces.
    """
    from transformers import BertTokenizer

    bert = BertTokenizer(vocab={piece: i for i, piece in enumerate(SPECIAL)}).backend_tokenizer
    words: Counter[str] = Counter()
    for text, number in Counter(texts).items():
        for word, _ in bert.pre_tokenizer.pre_tokenize_str(bert.normalizer.normalize_str(text)):
            words[word] += number
    return (*SPECIAL, *learn_pieces(words, size - len(SPECIAL)))
