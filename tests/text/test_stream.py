"""The stream's text is the decoded text, and nothing that was shown is ever wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import accumulate

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gamut.text import TextStream, Tokenizer

TEXTS = (
    "the dog's  tail, the fox .",
    "Zażółć gęślą jaźń — Tiếng Việt",
    "اللغة العربية",
    "नमस्ते क्षत्रिय",
    "今天天气很好。東京",
    "สวัสดีชาวโลก",
    "👩‍👩‍👧‍👦 🇧🇷🇮🇳 👍🏽 🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "e\u0301 o\u0308\u0304",
    "<s>a<|user|>é </s>",
    "\ufffd\ufffd \x00",
)
more = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def streamed(tokenizer: Tokenizer, ids: Sequence[int], skip: bool = True) -> list[str]:
    stream = TextStream(tokenizer, skip_special_tokens=skip)
    return [*(stream.push(id) for id in ids), stream.finish()]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("skip", [True, False])
def test_the_joined_texts_are_the_decoded_text(any_tokenizer: Tokenizer, text: str, skip: bool) -> None:
    ids = any_tokenizer.encode(text)
    assert "".join(streamed(any_tokenizer, ids, skip)) == any_tokenizer.decode(ids, skip_special_tokens=skip)


@more
@given(data=st.data())
def test_so_they_are_for_any_ids(any_tokenizer: Tokenizer, data: st.DataObject) -> None:
    # A few ids beyond the vocabulary, which have no text.
    ids = data.draw(st.lists(st.integers(0, any_tokenizer.vocab_size + 2), max_size=40))
    skip = data.draw(st.booleans())
    assert "".join(streamed(any_tokenizer, ids, skip)) == any_tokenizer.decode(ids, skip_special_tokens=skip)


OCTETS = st.one_of(st.integers(0xAE, 0xFF), st.sampled_from(list(b"\xc3\xb0\xed\xae\xbf\xf0\xbf\xf4")))


@more
@given(octets=st.lists(OCTETS, max_size=24))
@pytest.mark.parametrize("kind", ["bpe", "llama", "sentencepiece", "unigram"])
def test_so_they_are_for_any_bytes(tokenizer: Callable[[str], Tokenizer], kind: str, octets: list[int]) -> None:
    toker = tokenizer(kind)
    # From 0xAE on, byte-level BPE writes a byte as the character of Latin-1.
    ids = [toker.id(chr(octet) if kind == "bpe" else f"<0x{octet:02X}>") for octet in octets]
    assert "".join(streamed(toker, ids)) == toker.decode(ids)


@more
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=20))
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_no_half_character_is_shown(tokenizer: Callable[[str], Tokenizer], kind: str, text: str) -> None:
    toker = tokenizer(kind)
    shown = list(accumulate(streamed(toker, toker.encode(text))))
    assert all(toker.decode(toker.encode(text)).startswith(so_far) for so_far in shown)
    assert "\ufffd" not in shown[-1]


def test_a_byte_level_character_comes_with_its_last_byte(tokenizer: Callable[[str], Tokenizer]) -> None:
    toker = tokenizer("bpe")
    ids = [id for byte in "ĠĦ" for id in toker.encode(byte)]  # U+0120 and U+0126: two bytes each, C4 A0 and C4 A6.
    assert len(ids) == 4
    assert streamed(toker, ids) == ["", "Ġ", "", "Ħ", ""]


def test_a_byte_run_comes_when_it_has_ended_because_its_end_may_spoil_it(tokenizer: Callable[[str], Tokenizer]) -> None:
    toker = tokenizer("llama")
    e_acute = [toker.id("<0xC3>"), toker.id("<0xA9>")]
    letter, byte = toker.id("a"), toker.id("<0xFF>")
    assert streamed(toker, [letter, *e_acute, letter]) == ["a", "", "", "éa", ""]
    assert streamed(toker, [letter, *e_acute, byte, letter]) == ["a", "", "", "", "\ufffd\ufffd\ufffda", ""]


def test_text_comes_at_once_where_no_byte_is_open(tokenizer: Callable[[str], Tokenizer]) -> None:
    for kind in ("bpe", "wordpiece", "unigram", "word", "char", "llama"):
        toker = tokenizer(kind)
        ids = toker.encode("the dog", add_special_tokens=False)
        texts = streamed(toker, ids)
        assert texts[-1] == ""
        assert all(texts[1:-1]) or len(ids) == 1


def test_a_special_token_in_a_stream_leaves_no_trace(tokenizer: Callable[[str], Tokenizer]) -> None:
    toker = tokenizer("bpe")
    half, other_half = toker.encode("Ġ")
    end = toker.id("</s>")
    # Skipped, it is not there: the two bytes around it are neighbours, as they are for decode.
    assert streamed(toker, [half, end, other_half]) == ["", "", "Ġ", ""]
    assert streamed(toker, [half, end, other_half], skip=False) == ["", "\ufffd</s>", "\ufffd", ""]


def test_the_cost_of_an_id_does_not_grow(tokenizer: Callable[[str], Tokenizer]) -> None:
    for kind in ("bpe", "llama"):
        toker = tokenizer(kind)
        # Nothing but open bytes is the worst case: a stream that decodes all that is open again would take minutes.
        ids = [toker.id("<0xC3>") if kind == "llama" else toker.encode("Ġ")[0]] * 50_000
        start = time.monotonic()
        assert "".join(streamed(toker, ids)) == toker.decode(ids)
        assert time.monotonic() - start < 5
