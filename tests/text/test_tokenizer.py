"""A tokenizer directory is read as it is meant, written so that it is read again, and refused where it is broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gamut.errors import NotFoundError, TokenizerError
from gamut.text import Piece, Tokenizer, train


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A saved tokenizer."""
    train(["the dog and the fox"], "bpe", 300).save(tmp_path)
    return tmp_path


def edit(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes a key out."""
    entries = (json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}) | changes
    file.write_text(json.dumps({key: value for key, value in entries.items() if value is not None}), encoding="utf-8")


def test_the_ids_and_texts_are_the_librarys(any_tokenizer: Tokenizer) -> None:
    backend = any_tokenizer.backend
    for text in ("the dog", "", "<s>the é 世\n"):
        for special in (True, False):
            ids = backend.encode(text, add_special_tokens=special).ids
            assert any_tokenizer.encode(text, add_special_tokens=special) == ids
            assert any_tokenizer.encode_batch([text, "x"], add_special_tokens=special)[0] == ids
            assert any_tokenizer.decode(ids, skip_special_tokens=special) == backend.decode(ids, skip_special_tokens=special)


def test_pieces_tell_which_characters_they_stand_for(tokenizer: Callable[[str], Tokenizer]) -> None:
    toker = tokenizer("wordpiece")
    text = "👍🏽 the dog"  # Offsets are counted in characters, not in bytes.
    pieces = toker.pieces(text)
    assert pieces[0] == Piece(toker.id("[CLS]"), "[CLS]", 0, 0)
    assert [text[piece.start : piece.end] for piece in pieces[-3:-1]] == ["the", "dog"]
    assert [piece.id for piece in pieces] == toker.encode(text)
    assert [piece.id for piece in toker.pieces(text, add_special_tokens=False)] == toker.encode(text, add_special_tokens=False)


def test_tokens_and_ids_are_each_others(tokenizer: Callable[[str], Tokenizer]) -> None:
    toker = tokenizer("bpe")
    assert all(toker.id(toker.token(id)) == id for id in range(toker.vocab_size))
    assert toker.token(toker.vocab_size) is None
    assert toker.id("no such token") is None


def test_a_stored_length_neither_cuts_nor_fills_texts(directory: Path) -> None:
    whole = Tokenizer.load(directory).encode("the dog and the fox")
    fill = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None}
    fill |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
    stored = {"truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}, "padding": fill}
    edit(directory / "tokenizer.json", **stored)
    toker = Tokenizer.load(directory)
    assert toker.encode("the dog and the fox") == whole
    assert toker.encode_batch(["the dog and the fox", "x"])[0] == whole
    assert len(toker.pieces("the dog and the fox")) == len(whole)


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram", "word", "char"])
def test_what_is_saved_is_read_again(kind: str, tmp_path: Path, corpus: tuple[str, ...]) -> None:
    saved = train(corpus, kind, 600, extra_special_tokens=["<|user|>"]).with_chat_template("{{ 'ü' }}\r\n\n")
    saved.save(tmp_path)
    read = Tokenizer.load(tmp_path)
    assert read.backend.to_str() == saved.backend.to_str()
    assert (read.specials, read.special_ids, read.vocab_size) == (saved.specials, saved.special_ids, saved.vocab_size)
    # A text file of Windows and one of Unix are the same text.
    assert read.chat_template == "{{ 'ü' }}\n\n"
    assert Tokenizer.load(tmp_path / "tokenizer.json").encode("the <|user|>") == saved.encode("the <|user|>")


def test_what_the_configuration_says_beside_is_kept(directory: Path, tmp_path: Path) -> None:
    edit(directory / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", padding_side="left", anything={"a": [1]})
    Tokenizer.load(directory).save(tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())
    assert (config["tokenizer_class"], config["padding_side"], config["anything"]) == ("LlamaTokenizer", "left", {"a": [1]})


def test_saving_leaves_nothing_of_an_earlier_tokenizer(directory: Path) -> None:
    edit(directory / "special_tokens_map.json", bos_token="<old>")
    edit(directory / "added_tokens.json", **{"<old>": 999})
    (directory / "chat_template.jinja").write_text("old")
    (directory / "config.json").write_text("{}")
    saved = train(["another text"], "word", 50)
    saved.save(directory)
    read = Tokenizer.load(directory)
    assert (read.specials, read.chat_template, read.id("<old>")) == (saved.specials, None, None)
    assert (directory / "config.json").exists()


def test_special_tokens_are_read_as_texts_and_as_objects(directory: Path) -> None:
    as_object = {"__type": "AddedToken", "content": "</s>", "lstrip": False, "rstrip": False, "normalized": False}
    edit(directory / "tokenizer_config.json", bos_token="<s>", eos_token=as_object, pad_token=None)
    toker = Tokenizer.load(directory)
    assert (toker.bos_id, toker.eos_id, toker.pad_id, toker.unk_id, toker.mask_id) == (1, 2, None, None, None)
    assert toker.specials == {"bos_token": "<s>", "eos_token": "</s>"}


def test_the_special_tokens_map_counts_where_the_configuration_lists_no_added_tokens(directory: Path) -> None:
    edit(directory / "special_tokens_map.json", bos_token={"content": "</s>"}, unk_token="<s>")
    toker = Tokenizer.load(directory)
    assert (toker.bos_id, toker.unk_id) == (2, 1)
    entry = {"content": "<pad>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    edit(directory / "tokenizer_config.json", added_tokens_decoder={"0": entry})
    toker = Tokenizer.load(directory)
    assert (toker.bos_id, toker.unk_id) == (1, None)


def test_tokens_that_only_the_configuration_names_are_added(directory: Path) -> None:
    size = Tokenizer.load(directory).vocab_size
    edit(
        directory / "tokenizer_config.json", additional_special_tokens=["<|user|>"], mask_token="<mask>", image_token="<image>"
    )
    toker = Tokenizer.load(directory)
    assert toker.vocab_size == size + 3
    assert {toker.id("<mask>"), toker.id("<image>"), toker.id("<|user|>")} == {size, size + 1, size + 2} < toker.special_ids
    assert toker.encode("a<image>")[-1] == toker.id("<image>")
    assert toker.specials["image_token"] == "<image>"


def test_added_tokens_of_the_older_layout_keep_their_order(directory: Path) -> None:
    size = Tokenizer.load(directory).vocab_size
    edit(directory / "added_tokens.json", **{"<z>": size, "<a>": size + 1})
    edit(directory / "tokenizer_config.json", additional_special_tokens=["<a>"])
    toker = Tokenizer.load(directory)
    assert (toker.id("<z>"), toker.id("<a>")) == (size, size + 1)
    assert size + 1 in toker.special_ids
    assert size not in toker.special_ids


def test_special_tokens_are_cut_like_text_where_the_configuration_says_so(directory: Path) -> None:
    assert Tokenizer.load(directory).encode("</s>") == [2]
    edit(directory / "tokenizer_config.json", split_special_tokens=True)
    assert 2 not in Tokenizer.load(directory).encode("</s>")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("one", "one"),
        ([{"name": "tool_use", "template": "two"}, {"name": "default", "template": "one"}], "one"),
        ([{"name": "tool_use", "template": "two"}], None),
        (None, None),
    ],
)
def test_the_chat_template_is_found(directory: Path, tmp_path: Path, entry: Any, expected: str | None) -> None:
    edit(directory / "tokenizer_config.json", chat_template=entry)
    toker = Tokenizer.load(directory)
    assert toker.chat_template == expected
    toker.save(tmp_path / "copy")
    assert Tokenizer.load(tmp_path / "copy").chat_template == expected
    # A file of its own wins.
    (directory / "chat_template.jinja").write_text("file")
    toker = Tokenizer.load(directory)
    assert toker.chat_template == "file"
    toker.save(tmp_path / "copy")
    assert Tokenizer.load(tmp_path / "copy").chat_template == "file"


def test_a_new_chat_template_replaces_all_that_were_read(directory: Path, tmp_path: Path) -> None:
    edit(directory / "tokenizer_config.json", chat_template=[{"name": "default", "template": "old"}])
    Tokenizer.load(directory).with_chat_template("new").save(tmp_path / "copy")
    assert Tokenizer.load(tmp_path / "copy").chat_template == "new"


@pytest.mark.parametrize(("written", "length"), [(1024, 1024), (int(1e30), None), (1e30, None), (None, None)])
def test_the_longest_sequence_is_known_where_it_is_written(directory: Path, written: Any, length: int | None) -> None:
    edit(directory / "tokenizer_config.json", model_max_length=written)
    assert Tokenizer.load(directory).model_max_length == length


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no tokenizer at .*gone: there is no such file or directory"):
        Tokenizer.load(tmp_path / "gone")
    with pytest.raises(NotFoundError, match=r"no tokenizer\.json in .*; train one with: gamut tokenizer train"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "names", [["source.spm", "target.spm"], ["spiece.model"], ["vocab.txt"], ["merges.txt", "vocab.json"]], ids=" ".join
)
def test_another_librarys_tokenizer_is_pointed_out(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(NotFoundError, match=f"which holds {', '.join(names)}, another library's tokenizer; convert it"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "octets", "message"),
    [
        ("tokenizer.json", b'{"model": ', r"tokenizer\.json is not a tokenizer: EOF"),
        ("tokenizer.json", b"{}", r"tokenizer\.json is not a tokenizer: "),
        ("tokenizer.json", b'{"a": "\xff"}', r"tokenizer\.json must be UTF-8, byte 7 is not"),
        ("tokenizer_config.json", b'{\n"a": }', r"tokenizer_config\.json:2 is not JSON: Expecting value"),
        ("tokenizer_config.json", b"[]", r"tokenizer_config\.json must hold a JSON object, got list"),
        ("tokenizer_config.json", b'{"bos_token": 7}', r"each special token as a text or an object.*TypeError"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {}}}', r"each added token under its id: ValueError"),
        (
            "tokenizer_config.json",
            b'{"added_tokens_decoder": {"3": {}}}',
            r"each added token under its id: KeyError: 'content'",
        ),
        ("special_tokens_map.json", b"{", r"special_tokens_map\.json:1 is not JSON"),
        ("chat_template.jinja", b"\xff", r"chat_template\.jinja must be UTF-8"),
    ],
)
def test_a_broken_file_is_named(directory: Path, name: str, octets: bytes, message: str) -> None:
    (directory / name).write_bytes(octets)
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(directory)


def test_what_is_no_text_and_no_id_is_refused(tokenizer: Callable[[str], Tokenizer]) -> None:
    toker = tokenizer("bpe")
    for encode in (toker.encode, toker.pieces):
        with pytest.raises(TokenizerError, match=r"character 2 of the text is half of a surrogate pair \('\\ud800'\)"):
            encode("ab\ud800")
    with pytest.raises(TokenizerError, match=r"token ids are integers from 0 to 4294967295, got -100 to 7; drop"):
        toker.decode([7, -100])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=5))
def test_a_batch_is_its_texts_one_by_one(any_tokenizer: Tokenizer, texts: list[str]) -> None:
    assert any_tokenizer.encode_batch(texts) == [any_tokenizer.encode(text) for text in texts]
