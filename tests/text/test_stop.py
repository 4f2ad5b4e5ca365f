"""A stop text ends the output before it, and no part of one is shown, however the text is cut into pieces."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gamut.errors import OptionError
from gamut.text import StopIds, StopText, Tokenizer

# Few letters, so that beginnings of stop texts are everywhere.
LETTERS = st.text("ab\n", max_size=12)


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place for place in places if place < len(text)} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(text=LETTERS, stops=st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3), places=st.lists(st.integers(0, 12)))
def test_the_text_ends_before_the_earliest_stop_however_it_is_cut(text: str, stops: list[str], places: list[int]) -> None:
    stop = StopText(stops)
    shown = [stop.push(piece) for piece in cut(text, places)]
    shown.append(stop.finish())
    found = [place for place in (text.find(each) for each in stops) if place >= 0]
    assert "".join(shown) == (text[: min(found)] if found else text)
    assert stop.stopped == bool(found)


@given(text=LETTERS, stops=st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_more_is_held_back_than_could_begin_a_stop_text(text: str, stops: list[str]) -> None:
    stop = StopText(stops)
    shown = ""
    for i, char in enumerate(text):
        shown += stop.push(char)
        if stop.stopped:
            break
        held = text[len(shown) : i + 1]
        assert held == "" or any(each.startswith(held) or held.startswith(each) or held[1:].find(each) >= 0 for each in stops)


def test_half_a_stop_text_waits_for_its_other_half() -> None:
    stop = StopText(["###"])
    assert [stop.push("a#"), stop.push("#"), stop.push("b"), stop.push("c##")] == ["a", "", "##b", "c"]
    assert stop.push("#d") == ""
    assert stop.stopped
    assert [stop.push("e"), stop.finish()] == ["", ""]


def test_what_was_held_back_is_shown_when_the_text_ends() -> None:
    stop = StopText(["###"])
    assert (stop.push("a##"), stop.finish(), stop.stopped) == ("a", "##", False)


def test_a_stop_text_that_began_earlier_is_waited_for() -> None:
    # "bc" is complete in "abc", but "abcd" would begin before it.
    for end, shown in (("d", ""), ("x", "a")):
        stop = StopText(["bc", "abcd"])
        assert (stop.push("abc"), stop.stopped) == ("", False)
        assert (stop.push(end), stop.stopped) == (shown, True)
    stop = StopText(["bc", "abcd"])
    assert (stop.push("abc"), stop.finish(), stop.stopped) == ("", "a", True)


def test_an_empty_stop_text_is_refused() -> None:
    with pytest.raises(OptionError, match="a stop text must not be empty"):
        StopText(["a", ""])


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "char", "llama"])
def test_ids_stop_with_the_one_that_completes_the_stop_text(tokenizer: Callable[[str], Tokenizer], kind: str) -> None:
    toker = tokenizer(kind)
    ids = toker.encode("the dog jumps over the fox", add_special_tokens=False)
    stop = StopIds(toker, ["over"])
    verdicts = [stop(id) for id in ids]
    first = verdicts.index(True)
    assert "over" in toker.decode(ids[: first + 1])
    assert "over" not in toker.decode(ids[:first])
    assert all(verdicts[first:])


def test_ids_without_the_stop_text_never_stop(tokenizer: Callable[[str], Tokenizer]) -> None:
    toker = tokenizer("bpe")
    stop = StopIds(toker, ["cat", "</s>"])
    # A special token is no part of the text that is shown.
    assert not any(stop(id) for id in toker.encode("the dog jumps </s>"))
