"""Word pieces of a text (Wu et al. 2016), as the text encoder reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import BertWordPieceTokenizer
from tokenizers.processors import BertProcessing

from scfoundry.model.langcell._batches import TokenLists

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Tokenizer", "learn_vocabulary"]

PAD, UNKNOWN, START, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, START, END, MASK)


class Tokenizer:
    """Lower-casing word piece tokenizer.

    Parameters
    ----------
    vocabulary
        Word pieces in the order of their ids.
    max_length
        Most pieces of a text, ``[CLS]`` and ``[SEP]`` included.

    Examples
    --------
    >>> tokenizer = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "b", "cell"], max_length=8)
    >>> tokenizer(["B cell"]).tokens.tolist()
    [2, 5, 6, 3]
    """

    def __init__(self, vocabulary: Sequence[str], *, max_length: int) -> None:
        ids = {piece: i for i, piece in enumerate(vocabulary)}
        missing = [piece for piece in SPECIAL if piece not in ids]
        if missing:
            msg = f"The text vocabulary lacks {', '.join(missing)}; it starts with {list(vocabulary[:5])}."
            raise ValueError(msg)
        self._tokenizer = BertWordPieceTokenizer(vocab=ids, lowercase=True)
        self._tokenizer.post_processor = BertProcessing((END, ids[END]), (START, ids[START]))
        self._tokenizer.enable_truncation(max_length)

    def __call__(self, texts: Sequence[str]) -> TokenLists:
        """Word pieces of every text."""
        return TokenLists.of([encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))])


def learn_vocabulary(texts: Iterable[str], size: int) -> tuple[str, ...]:
    """Word pieces that spell a collection of texts, the special ones first.

    Parameters
    ----------
    texts
        What the encoder will read.
    size
        Most pieces.
    """
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(texts, vocab_size=size, special_tokens=list(SPECIAL), show_progress=False)
    vocabulary = tokenizer.get_vocab()
    return tuple(sorted(vocabulary, key=vocabulary.__getitem__))
