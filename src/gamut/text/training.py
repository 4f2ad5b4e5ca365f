"""Learns a tokenizer from texts: `train`, for five kinds of tokenizer. The same texts give the same tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

from ..errors import NotFoundError, OptionError, TokenizerError, nearest
from .tokenizer import ROLES, Tokenizer

Kind = Literal["bpe", "wordpiece", "unigram", "word", "char"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

_LARGEST_VOCABULARY = 1 << 24  # the learners set memory aside for all of it at once


def train(
    corpus: Iterable[str | Path],
    kind: Kind | str,
    vocab_size: int,
    *,
    special_tokens: Mapping[str, str] | None = None,
    extra_special_tokens: Sequence[str] = (),
    lowercase: bool = False,
) -> Tokenizer:
    """Train a tokenizer.

    ============= ===================================================== ============================================
    kind          pieces                                                special tokens, from id 0 on
    ============= ===================================================== ============================================
    ``bpe``       merged bytes (Radford 2019); every text comes back    ``<pad>`` ``<s>`` ``</s>``
                  from its ids exactly
    ``wordpiece`` words and ``##`` continuations (Devlin 2019); text is ``[PAD]`` ``[UNK]`` ``[CLS]`` ``[SEP]``
                  put between ``[CLS]`` and ``[SEP]``                   ``[MASK]``
    ``unigram``   the most probable pieces (Kudo 2018), with 256 bytes  ``<pad>`` ``<unk>`` ``<s>`` ``</s>``
                  for what no piece covers; every text comes back
    ``word``      words and punctuation marks                           ``<pad>`` ``<unk>`` ``<s>`` ``</s>``
    ``char``      characters                                            ``<pad>`` ``<unk>`` ``<s>`` ``</s>``
    ============= ===================================================== ============================================

    Every special token that a text spells out becomes that token, and `Tokenizer.decode` leaves it out unless it is told to
    keep special tokens. Only ``wordpiece`` puts special tokens around a text by itself. With the other kinds,
    `Tokenizer.encode` gives the text alone, so that a model's data or chat template places each ``<s>`` and ``</s>`` once.

    Args:
        corpus: texts (str), or files of UTF-8 text (Path).
        kind: see the table.
        vocab_size: most entries of the vocabulary, special tokens included. A small corpus fills fewer.
        special_tokens: other names for the tokens of the table, or tokens for further roles: ``{"bos_token": "<|begin|>"}``.
        extra_special_tokens: special tokens without a role, such as the marks of a chat template.
        lowercase: fold letters to lower case first. Then texts come back in lower case.

    Raises:
        OptionError: for an unknown kind or role, an empty special token, or a size below 1.
        NotFoundError: when a file is missing.
        TokenizerError: when a file is not UTF-8, when the corpus holds no text, or when `vocab_size` is too small for
            the special tokens and the characters of the corpus.
    """
    if kind not in _RECIPES:
        raise OptionError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}{nearest(kind, KINDS)}")
    if not 1 <= vocab_size <= _LARGEST_VOCABULARY:
        raise OptionError(f"vocab_size must be from 1 to {_LARGEST_VOCABULARY}, got {vocab_size}")
    if isinstance(corpus, str):
        raise OptionError("corpus must be a list of texts or files, got one text; put it into a list")
    recipe = _RECIPES[kind]
    roles = dict(recipe.roles)
    for role, token in (special_tokens or {}).items():
        if role not in ROLES:
            raise OptionError(f"a special token's role must be one of {', '.join(ROLES)}, got {role!r}{nearest(role, ROLES)}")
        roles[role] = token
    specials = list(dict.fromkeys([*roles.values(), *extra_special_tokens]))
    if "" in specials:
        raise OptionError("a special token must not be empty")

    plan = _Plan(vocab_size, specials, roles, normalizers.Lowercase() if lowercase else None)
    backend = recipe.build(plan, _Texts(list(corpus)))
    needed = backend.get_vocab_size()
    if needed > vocab_size:  # The trainers take in every special token and character, whatever the size asked for.
        raise _too_small(vocab_size, needed)
    config: dict[str, object] = dict(roles)
    if extra_special_tokens:
        config["additional_special_tokens"] = list(extra_special_tokens)
    return Tokenizer(backend, config)


@dataclass(frozen=True)
class _Plan:
    """What a kind's builder needs to know."""

    vocab_size: int
    specials: list[str]
    roles: Mapping[str, str]
    normalizer: normalizers.Normalizer | None


@dataclass(frozen=True)
class _Recipe:
    """One kind: the special tokens that it starts with, and how it is built."""

    roles: Mapping[str, str]
    build: Callable[[_Plan, Iterable[str]], Backend]


def _bpe(plan: _Plan, texts: Iterable[str]) -> Backend:
    """Byte-level BPE: the alphabet is the 256 bytes, so nothing is unknown and nothing is lost."""
    backend = Backend(models.BPE())
    if plan.normalizer:
        backend.normalizer = plan.normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=plan.vocab_size,
        special_tokens=plan.specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return backend


def _wordpiece(plan: _Plan, texts: Iterable[str]) -> Backend:
    """As BERT's: the cased normalisation unless `lowercase` was asked for, which strips accents too."""
    unk, cls, sep = (plan.roles[role] for role in ("unk_token", "cls_token", "sep_token"))

    def learn(vocab_size: int, first: list[str]) -> Backend:
        backend = Backend(models.WordPiece(unk_token=unk))
        backend.normalizer = normalizers.BertNormalizer(lowercase=plan.normalizer is not None)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size, special_tokens=first, continuing_subword_prefix="##", show_progress=False
        )
        backend.train_from_iterator(texts, trainer)
        return backend

    # The library numbers the continuations of one character in an order that changes from run to run, and breaks ties between
    # pieces by number. So a first pass finds them, and the second is given them in order, in the guise of special tokens.
    alphabet = sorted(token for token in learn(0, plan.specials).get_vocab() if len(token) == 3 and token.startswith("##"))
    learner = learn(plan.vocab_size, plan.specials + alphabet)
    backend = Backend(models.WordPiece(learner.get_vocab(), unk_token=unk))
    backend.normalizer = learner.normalizer
    backend.pre_tokenizer = learner.pre_tokenizer
    backend.decoder = decoders.WordPiece(prefix="##")
    backend.add_special_tokens(plan.specials)
    backend.post_processor = processors.TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[cls, "$A", sep, "$B:1", f"{sep}:1"],
        special_tokens=[(token, plan.specials.index(token)) for token in (cls, sep)],
    )
    return backend


def _unigram(plan: _Plan, texts: Iterable[str]) -> Backend:
    """SentencePiece's model with its byte fallback, but over the text's own spaces, so that a ``▁`` in a text stays one.

    The text is cut before white space, and before ``<0x`` so that no text is ever taken for the name of a byte.
    """
    learner = Backend(models.Unigram())
    if plan.normalizer:
        learner.normalizer = plan.normalizer
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s"), "merged_with_next"), pre_tokenizers.Split(Regex(r"<(?=0x)"), "isolated")]
    )
    unk = plan.roles["unk_token"]
    characters: set[str] = set()
    reserved = len(_BYTES) + len(plan.specials)
    trainer = trainers.UnigramTrainer(
        vocab_size=max(plan.vocab_size - reserved, 0) + 1, unk_token=unk, special_tokens=[unk], show_progress=False
    )
    try:
        learner.train_from_iterator(_noting(texts, characters, plan.normalizer), trainer)
    except Exception as error:
        if "not large enough" not in str(error):
            raise
    needed = reserved + len(characters)
    if plan.vocab_size < needed:
        raise _too_small(plan.vocab_size, needed)

    taken = {*plan.specials, *_BYTES}
    learned: list[tuple[str, float]] = json.loads(learner.to_str())["model"]["vocab"]
    scores = _repeatable({piece: score for piece, score in learned if piece not in taken})
    # The library may give more pieces than it was asked for. The characters must all stay.
    best = sorted(scores, key=lambda piece: (len(piece) > 1, -scores[piece], piece))[: plan.vocab_size - reserved]
    pieces = [(piece, scores[piece]) for piece in sorted(best, key=lambda piece: (-scores[piece], piece))]
    vocab = [(token, 0.0) for token in (*plan.specials, *_BYTES)] + pieces
    backend = Backend(models.Unigram(vocab, unk_id=plan.specials.index(unk), byte_fallback=True))
    backend.normalizer = learner.normalizer
    backend.pre_tokenizer = learner.pre_tokenizer
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(plan.specials)
    return backend


def _repeatable(scores: Mapping[str, float]) -> dict[str, float]:
    """The scores without what changes from run to run.

    That is their last digits, because the library sums in any order, and the scores of the characters that training dropped
    and the library put back: the lowest score, and 0.0001 more for each, in any order.
    """
    lowest = min(scores.values(), default=0.0)
    put_back = lowest + 0.0001 * sum(len(piece) == 1 for piece in scores)
    return {piece: round(lowest if len(piece) == 1 and score <= put_back else score, 6) for piece, score in scores.items()}


def _word(plan: _Plan, texts: Iterable[str]) -> Backend:
    """Words and punctuation marks; decoding puts a space between any two."""
    backend = Backend(models.WordLevel(unk_token=plan.roles["unk_token"]))
    if plan.normalizer:
        backend.normalizer = plan.normalizer
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=plan.vocab_size, special_tokens=plan.specials, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return backend


def _char(plan: _Plan, texts: Iterable[str]) -> Backend:
    """Every character of the corpus, white space included."""
    backend = Backend(models.WordLevel(unk_token=plan.roles["unk_token"]))
    if plan.normalizer:
        backend.normalizer = plan.normalizer
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    # An unbounded size: characters that do not fit are the caller's to know of, not to lose.
    trainer = trainers.WordLevelTrainer(vocab_size=2**31, special_tokens=plan.specials, show_progress=False)
    backend.train_from_iterator(texts, trainer)
    return backend


_BERT_ROLES = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_LOSSLESS_ROLES = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
_ROLES = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}

_RECIPES: Mapping[str, _Recipe] = {
    "bpe": _Recipe(_LOSSLESS_ROLES, _bpe),
    "wordpiece": _Recipe(_BERT_ROLES, _wordpiece),
    "unigram": _Recipe(_ROLES, _unigram),
    "word": _Recipe(_ROLES, _word),
    "char": _Recipe(_ROLES, _char),
}


def _too_small(asked: int, needed: int) -> TokenizerError:
    return TokenizerError(
        f"vocab_size must be at least {needed}, got {asked}: "
        f"the special tokens and the characters of this corpus take {needed} entries"
    )


def _noting(texts: Iterable[str], characters: set[str], normalizer: normalizers.Normalizer | None) -> Iterator[str]:
    """`texts`, noting which characters they hold."""
    for text in texts:
        characters.update(normalizer.normalize_str(text) if normalizer else text)
        yield text


class _Texts:
    """The texts of a corpus, as often as they are asked for; a file comes line by line, with its line ends."""

    def __init__(self, corpus: list[str | Path]) -> None:
        self.corpus = corpus

    def __iter__(self) -> Iterator[str]:
        found = False
        for item in self.corpus:
            for text in _lines(item) if isinstance(item, Path) else (item,):
                found = found or bool(text.strip())
                yield text
        if not found:
            raise TokenizerError("the corpus must hold some text, got none but white space; name a file with text in it")


def _lines(file: Path) -> Iterator[str]:
    if not file.is_file():
        raise NotFoundError(f"no text file at {file}; name files of UTF-8 text")
    offset = 0
    with file.open("rb") as lines:
        for line in lines:
            try:
                yield line.decode()
            except UnicodeDecodeError as error:
                byte = line[error.start]
                raise TokenizerError(
                    f"{file} must be UTF-8, got the byte 0x{byte:02X} at byte offset {offset + error.start}; "
                    f"convert it, for instance with: iconv -f latin1 -t utf-8 {file}"
                ) from error
            offset += len(line)
