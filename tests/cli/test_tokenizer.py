"""`gamut tokenizer train` and `gamut tokenizer show`, option by option."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gamut.cli.tokenizer import app
from gamut.errors import NotFoundError, OptionError, TokenizerError, UsageError
from gamut.text import Tokenizer

TEXT = "The quick brown fox jumps over the lazy dog\n" * 5


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    file = tmp_path / "corpus.txt"
    file.write_text(TEXT, encoding="utf-8")
    return str(file)


def run(*args: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args], input=stdin, catch_exceptions=False)


def train(corpus: str, out: Path, *args: object, size: int = 300) -> Tokenizer:
    result = run("train", corpus, "--vocab-size", size, "--out", out, *args)
    assert result.exit_code == 0
    return Tokenizer.load(out)


def test_train_writes_a_tokenizer_and_says_so(corpus: str, tmp_path: Path) -> None:
    result = run("train", corpus, "--vocab-size", 300, "--out", tmp_path / "toker")
    trained = Tokenizer.load(tmp_path / "toker")
    assert trained.decode(trained.encode("any text ✓")) == "any text ✓"
    assert result.stdout == f"{tmp_path / 'toker'}: a bpe tokenizer of {trained.vocab_size} tokens\n"
    assert "training" in result.stderr


def test_json_prints_one_object(corpus: str, tmp_path: Path) -> None:
    result = run("train", corpus, "--vocab-size", 300, "--out", tmp_path / "toker", "--json")
    trained = Tokenizer.load(tmp_path / "toker")
    assert json.loads(result.stdout) == {
        "path": str(tmp_path / "toker"),
        "kind": "bpe",
        "vocab_size": trained.vocab_size,
        "special_tokens": {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    }


def test_kind_chooses_the_tokenizer(corpus: str, tmp_path: Path) -> None:
    trained = train(corpus, tmp_path / "toker", "--kind", "word")
    assert [piece.text for piece in trained.pieces("the lazy dog")] == ["the", "lazy", "dog"]


def test_vocab_size_limits_the_vocabulary(corpus: str, tmp_path: Path) -> None:
    assert train(corpus, tmp_path / "a", size=262).vocab_size == 262
    assert train(corpus, tmp_path / "b", size=265).vocab_size == 265


def test_special_adds_a_token_or_renames_one(corpus: str, tmp_path: Path) -> None:
    trained = train(corpus, tmp_path / "toker", "--special", "<|user|>", "--special", "bos=<|begin|>", "--special", "a=b")
    assert trained.specials == {"bos_token": "<|begin|>", "eos_token": "</s>", "pad_token": "<pad>"}
    assert {trained.token(id) for id in trained.special_ids} == {"<|begin|>", "</s>", "<pad>", "<|user|>", "a=b"}
    assert trained.encode("<|user|>") == [trained.id("<|user|>")]


def test_lowercase_folds_letters(corpus: str, tmp_path: Path) -> None:
    assert train(corpus, tmp_path / "a").encode("The") != train(corpus, tmp_path / "a").encode("the")
    folded = train(corpus, tmp_path / "b", "--lowercase")
    assert folded.encode("The") == folded.encode("the")


def test_a_dash_reads_standard_input(corpus: str, tmp_path: Path) -> None:
    run("train", "-", "--vocab-size", 300, "--out", tmp_path / "stdin", stdin=TEXT)
    from_file = train(corpus, tmp_path / "file")
    assert Tokenizer.load(tmp_path / "stdin").backend.get_vocab() == from_file.backend.get_vocab()


def test_several_files_are_one_corpus(corpus: str, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("zebra zebra", encoding="utf-8")
    trained = train(corpus, tmp_path / "toker", other, "--kind", "word")
    assert trained.id("zebra") is not None
    assert trained.id("fox") is not None


def test_a_tokenizer_is_replaced_but_a_model_only_when_told_to(corpus: str, tmp_path: Path) -> None:
    out = tmp_path / "model"
    train(corpus, out)
    assert train(corpus, out, "--kind", "word").id("fox") is not None
    (out / "config.json").write_text("{}")
    with pytest.raises(OptionError, match=r"--out must be a new directory .* holds config\.json; add --overwrite"):
        run("train", corpus, "--vocab-size", 300, "--out", out)
    assert train(corpus, out, "--kind", "char", "--overwrite").id("x") is not None
    assert (out / "config.json").read_text() == "{}"


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_directory_of_something_else_is_left_alone(corpus: str, tmp_path: Path, overwrite: list[str]) -> None:
    (tmp_path / "diary").mkdir()
    (tmp_path / "diary" / "monday.txt").write_text("rain")
    with pytest.raises(OptionError, match=r"holds monday\.txt; name another directory"):
        run("train", corpus, "--vocab-size", 300, "--out", tmp_path / "diary", *overwrite)
    assert [file.name for file in (tmp_path / "diary").iterdir()] == ["monday.txt"]


def test_a_failed_training_writes_nothing(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="vocab_size must be at least 259, got 5"):
        run("train", corpus, "--vocab-size", 5, "--out", tmp_path / "toker")
    assert not (tmp_path / "toker").exists()


def test_show_prints_an_aligned_table(corpus: str, tmp_path: Path) -> None:
    trained = train(corpus, tmp_path / "toker", "--kind", "char")
    result = run("show", tmp_path / "toker", "a 世b")
    ids = trained.encode("a 世b")
    assert ids[2] == trained.unk_id
    assert result.stdout.splitlines() == [
        "piece    id  characters",
        f'"a"      {ids[0]:<2}  0-1',
        f'" "      {ids[1]:<2}  1-2',
        f'"<unk>"  {ids[2]:<2}  2-3',
        f'"b"      {ids[3]:<2}  3-4',
    ]


def test_show_aligns_wide_characters(tmp_path: Path) -> None:
    run("train", "-", "--kind", "word", "--vocab-size", 9, "--out", tmp_path / "toker", stdin="世界 ab")
    trained = Tokenizer.load(tmp_path / "toker")
    # An ideograph takes two columns of a terminal, so its quotes close at the sixth.
    assert run("show", tmp_path / "toker", "世界 ab").stdout.splitlines() == [
        "piece   id  characters",
        f'"世界"  {trained.id("世界")}   0-2',
        f'"ab"    {trained.id("ab")}   3-5',
    ]


def test_show_json_prints_the_pieces(corpus: str, tmp_path: Path) -> None:
    trained = train(corpus, tmp_path / "toker", "--kind", "wordpiece")
    result = run("show", tmp_path / "toker" / "tokenizer.json", "dog", "--json")
    pieces = json.loads(result.stdout)
    assert [piece["id"] for piece in pieces] == trained.encode("dog")
    assert pieces[0] == {"id": 2, "text": "[CLS]", "start": 0, "end": 0}


def test_show_reads_standard_input(corpus: str, tmp_path: Path) -> None:
    train(corpus, tmp_path / "toker")
    assert run("show", tmp_path / "toker", "-", stdin="the dog").stdout == run("show", tmp_path / "toker", "the dog").stdout


def test_faults_of_the_input_are_named(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no tokenizer at"):
        run("show", tmp_path / "nothing", "text")
    train(corpus, tmp_path / "toker")
    with pytest.raises(UsageError, match="standard input must be UTF-8, got the byte 0xE9 at byte offset 3"):
        run("show", tmp_path / "toker", "-", stdin=b"caf\xe9")
