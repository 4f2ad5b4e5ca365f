"""Every kind of tokenizer does with text what its kind is known for, and a corpus that will not do is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gamut.errors import NotFoundError, OptionError, TokenizerError
from gamut.text import KINDS, Tokenizer, train

UNICODE = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example("  two  spaces\r\n\ttab ▁ Ġ ## <0x41> <0xFF> <0x <s></s><pad><unk><|user|> \x00\ufffd")
@given(text=UNICODE)
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_every_text_comes_back_exactly(tokenizer: Callable[[str], Tokenizer], kind: str, text: str) -> None:
    toker = tokenizer(kind)
    ids = toker.encode(text)
    assert toker.decode(ids, skip_special_tokens=False) == text
    # Nothing is unknown, but a text may spell the token out.
    assert toker.id("<unk>") not in ids or "<unk>" in text


def test_bpe_merges_the_most_frequent_pair_first() -> None:
    # The example of Sennrich et al. 2016, section 3.2: "es", then "est", then, here, "lo" and "low".
    corpus = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3
    toker = train(corpus, "bpe", 3 + 256 + 4)
    assert [toker.token(id) for id in range(259, 263)] == ["es", "est", "lo", "low"]


def test_wordpiece_is_berts(corpus: tuple[str, ...]) -> None:
    toker = train(corpus, "wordpiece", 600)
    assert [toker.token(id) for id in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [piece.text for piece in toker.pieces("The foxdog , \u2603")]
    assert pieces[0] == "[CLS]"
    assert pieces[-3:] == [",", "[UNK]", "[SEP]"]
    inner = pieces[1:-3]
    assert inner[0] == "The"
    assert all(piece.startswith("##") for piece in inner[2:])
    assert toker.decode(toker.encode("The foxdog , \u2603")) == "The foxdog,"
    pair = toker.backend.encode("The", "dog")
    assert (pair.tokens, pair.type_ids) == (["[CLS]", "The", "[SEP]", "dog", "[SEP]"], [0, 0, 0, 1, 1])
    assert (toker.pad_id, toker.unk_id, toker.mask_id, toker.bos_id) == (0, 1, 4, None)


def test_lowercase_wordpiece_drops_accents_too_as_uncased_bert() -> None:
    toker = train(["Éclair éclair eclair"], "wordpiece", 60, lowercase=True)
    assert toker.encode("ÉCLAIR") == toker.encode("eclair")


def test_words_and_punctuation_marks_are_the_pieces_of_word() -> None:
    toker = train(["to be, or not to be"], "word", 100)
    assert [piece.text for piece in toker.pieces("to be, or what")] == ["to", "be", ",", "or", "<unk>"]
    assert toker.decode(toker.encode("to be, or what")) == "to be , or"
    # The two most frequent words, and ids after the special tokens'.
    assert {train(["to be, or not to be"], "word", 6).token(id) for id in (4, 5)} == {"to", "be"}


def test_characters_are_the_pieces_of_char() -> None:
    toker = train(["a b\nc"], "char", 100)
    assert [piece.text for piece in toker.pieces("c\n z")] == ["c", "\n", " ", "<unk>"]
    assert toker.decode(toker.encode("c\n a b")) == "c\n a b"


def test_unigram_learns_whole_words_and_keeps_bytes_for_the_rest() -> None:
    words = [f"{stem}{end}" for stem in ("walk", "talk", "jump", "play") for end in ("", "s", "ed", "ing", "er")]
    toker = train([" ".join(words)] * 4, "unigram", 330)
    assert [piece.text for piece in toker.pieces("é")] == ["<0xC3>", "<0xA9>"]
    assert len(toker.encode("walking talked")) < len("walking talked") / 1.5


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_come_first_and_are_never_cut(kind: str, corpus: tuple[str, ...]) -> None:
    toker = train(corpus, kind, 600, extra_special_tokens=["<|user|>"])
    assert toker.special_ids == frozenset(range(len(toker.special_ids)))
    assert {toker.token(id) for id in toker.special_ids} == {*toker.specials.values(), "<|user|>"}
    assert toker.id("<|user|>") in toker.encode("a<|user|>b")
    assert "<|user|>" not in toker.decode(toker.encode("a<|user|>b"))


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_can_be_named(kind: str, corpus: tuple[str, ...]) -> None:
    names = {role: f"<|{role}|>" for role in train(corpus, kind, 600).specials} | {"bos_token": "<|begin|>"}
    toker = train(corpus, kind, 600, special_tokens=names)
    assert toker.specials == names
    assert toker.bos_id == toker.id("<|begin|>") is not None
    if kind == "wordpiece":
        assert [piece.text for piece in toker.pieces("")] == ["<|cls_token|>", "<|sep_token|>"]
    if kind in ("word", "char"):
        assert toker.encode("\u2603") == [toker.unk_id]


def test_one_token_can_have_two_roles(corpus: tuple[str, ...]) -> None:
    toker = train(corpus, "bpe", 300, special_tokens={"pad_token": "</s>"})
    assert toker.pad_id == toker.eos_id is not None
    assert len(toker.special_ids) == 2


@pytest.mark.parametrize("kind", ["bpe", "unigram", "word", "char"])
def test_a_text_is_encoded_alone(kind: str, tokenizer: Callable[[str], Tokenizer]) -> None:
    toker = tokenizer(kind)
    assert toker.encode("the dog") == toker.encode("the dog", add_special_tokens=False)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "word", "char"])
def test_lowercase_folds_letters(kind: str, corpus: tuple[str, ...]) -> None:
    toker = train(corpus, kind, 600, lowercase=True)
    assert toker.encode("THE Ä") == toker.encode("the ä")


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_is_no_larger_than_asked_and_the_least_size_is_told(kind: str, corpus: tuple[str, ...]) -> None:
    with pytest.raises(TokenizerError, match=r"vocab_size must be at least [0-9]+, got 2: the special tokens") as caught:
        train(corpus, kind, 2)
    least = int(str(caught.value).split("at least ")[1].split(",")[0])
    assert train(corpus, kind, least).vocab_size == least
    with pytest.raises(TokenizerError, match=f"at least {least}, got {least - 1}"):
        train(corpus, kind, least - 1)
    assert train(corpus, kind, least + 3).vocab_size <= least + 3


@pytest.mark.parametrize("kind", KINDS)
def test_training_again_gives_the_same_tokenizer(
    kind: str, corpus: tuple[str, ...], tokenizer: Callable[[str], Tokenizer]
) -> None:
    again = train(corpus, kind, 600, extra_special_tokens=["<|user|>"])
    assert again.backend.to_str() == tokenizer(kind).backend.to_str()


def test_so_it_does_in_another_process(corpus: tuple[str, ...]) -> None:
    # The library hashes with a new seed in each process.
    code = (
        "import sys; from gamut.text import KINDS, train; "
        "print([train(sys.argv[1].splitlines(True), kind, 500).backend.to_str() for kind in KINDS])"
    )
    found = {
        subprocess.run([sys.executable, "-c", code, "".join(corpus)], capture_output=True, check=True).stdout for _ in range(2)
    }
    assert len(found) == 1


def test_files_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("naïve\r\ncafé\n".encode())
    (tmp_path / "b.txt").write_text("zebra", encoding="utf-8")
    toker = train([tmp_path / "a.txt", tmp_path / "b.txt", "quiz"], "char", 100)
    assert {toker.token(id) for id in range(4, toker.vocab_size)} == set("naïve\r\ncafézebraquiz")


def test_a_corpus_that_will_not_do_is_refused(tmp_path: Path) -> None:
    for empty in ([], [""], [" \n", "\t"]):
        for kind in KINDS:
            with pytest.raises(TokenizerError, match="the corpus must hold some text"):
                train(empty, kind, 300)
    with pytest.raises(NotFoundError, match=r"no text file at .*gone\.txt"):
        train([tmp_path / "gone.txt"], "bpe", 300)
    (tmp_path / "latin.txt").write_bytes("ok é\n".encode() + b"caf\xe9\n")
    with pytest.raises(TokenizerError, match=r"latin\.txt must be UTF-8, got the byte 0xE9 at byte offset 9; convert it"):
        train([tmp_path / "latin.txt"], "bpe", 300)


def test_options_that_will_not_do_are_refused() -> None:
    with pytest.raises(OptionError, match=r"kind must be one of .*, got 'wordpeice'; did you mean 'wordpiece'\?"):
        train(["a"], "wordpeice", 300)
    with pytest.raises(OptionError, match="corpus must be a list of texts or files, got one text"):
        train("a text", "char", 300)
    with pytest.raises(OptionError, match="vocab_size must be from 1 to 16777216, got 0"):
        train(["a"], "bpe", 0)
    with pytest.raises(OptionError, match=r"got 'bos_tok'; did you mean 'bos_token'\?"):
        train(["a"], "bpe", 300, special_tokens={"bos_tok": "<s>"})
    with pytest.raises(OptionError, match="a special token must not be empty"):
        train(["a"], "bpe", 300, extra_special_tokens=[""])
