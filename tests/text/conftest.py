"""Tokenizers of every kind, trained on the spot on a few sentences in many scripts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from gamut.text import Tokenizer, train

SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind .\n",
    "Zażółć gęślą jaźń. Übergrößenträger. Ça va? Tiếng Việt.\n",
    "اللغة العربية جميلة\n",
    "नमस्ते दुनिया, क्षत्रिय\n",
    "今天天气很好。東京都に住んでいます。\n",
    "สวัสดีชาวโลก\n",
    "안녕하세요 세계\n",
    "👩‍👩‍👧‍👦 🇧🇷🇮🇳 👍🏽 🏴󠁧󠁢󠁳󠁣󠁴󠁿 e\u0301 o\u0308\u0304\n",
)
CORPUS = SENTENCES * 6


def _bytes_and_characters() -> dict[str, int]:
    """A vocabulary as LLaMA's: special tokens, the 256 bytes, then characters."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    return {token: id for id, token in enumerate([*tokens, *"abcdefghijklmnopqrstuvwxyz,.", "th", "the", "▁the", "é"])}


def _llama() -> Backend:
    vocab = _bytes_and_characters()
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    backend = Backend(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


def _sentencepiece() -> Backend:
    pieces = [(token, -float(id)) for token, id in _bytes_and_characters().items()]
    backend = Backend(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


def _suffixed() -> Backend:
    backend = Backend(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.BPEDecoder()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>"], end_of_word_suffix="</w>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def _decoded_by(decoder: decoders.Decoder) -> Callable[[], Backend]:
    """LLaMA's vocabulary under another decoder."""

    def build() -> Backend:
        backend = _llama()
        backend.decoder = decoder
        return backend

    return build


def _trained(kind: str) -> Callable[[], Backend]:
    return lambda: train(CORPUS, kind, 600, extra_special_tokens=["<|user|>"]).backend


BACKENDS: dict[str, Callable[[], Backend]] = {
    "bpe": _trained("bpe"),
    "wordpiece": _trained("wordpiece"),
    "unigram": _trained("unigram"),
    "word": _trained("word"),
    "char": _trained("char"),
    "llama": _llama,
    "sentencepiece": _sentencepiece,
    "suffixed": _suffixed,
    "no decoder": lambda: _without_decoder(),
    "strip and replace each token": _decoded_by(
        decoders.Sequence([decoders.Strip("▁", 1, 0), decoders.Replace(Regex("[aeiou]"), "_"), decoders.ByteFallback()])
    ),
    "replace one character, strip two": _decoded_by(
        decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("e", "3"), decoders.Strip("▁", 2, 0)])
    ),
    "fuse, then a pattern": _decoded_by(decoders.Sequence([decoders.Fuse(), decoders.Replace("ab", "x"), decoders.Fuse()])),
    "ctc": _decoded_by(decoders.CTC(pad_token="<s>", word_delimiter_token="▁")),
}


def _without_decoder() -> Backend:
    backend = _suffixed()
    backend.decoder = None
    return backend


@cache
def tokenizer_of(name: str) -> Tokenizer:
    return Tokenizer(BACKENDS[name](), {})


@pytest.fixture(params=list(BACKENDS))
def any_tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """One tokenizer of each kind."""
    return tokenizer_of(request.param)


@pytest.fixture
def tokenizer() -> Callable[[str], Tokenizer]:
    """A tokenizer by the name of its kind."""
    return tokenizer_of


@pytest.fixture
def corpus() -> tuple[str, ...]:
    return CORPUS
