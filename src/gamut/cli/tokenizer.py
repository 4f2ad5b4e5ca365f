"""`gamut tokenizer`: train a tokenizer from texts, and show how one cuts a text into tokens."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import typer

from ..errors import OptionError
from .standard_input import read_text

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command()
def train(
    files: list[str] = typer.Argument(..., help="UTF-8 text files; - reads standard input."),
    kind: str = typer.Option("bpe", help="bpe, wordpiece, unigram, word or char."),
    vocab_size: int = typer.Option(..., help="Most entries of the vocabulary, special tokens included."),
    out: Path = typer.Option(..., help="Directory to write."),
    special: list[str] = typer.Option(
        [], metavar="TOKEN", help="One more special token, or another name for one: bos=<|begin|>. May be given again."
    ),
    lowercase: bool = typer.Option(False, "--lowercase", help="Fold letters to lower case."),
    overwrite: bool = typer.Option(False, "--overwrite", help="Replace the tokenizer of the model in --out."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Train a tokenizer and write it as a Hugging Face directory."""
    from .. import text
    from ..checkpoint.io import atomic_directory

    _refuse_other_files(out, text.TOKENIZER_FILES, overwrite)
    roles, extra = _split_specials(special)
    typer.echo(f"training a {kind} tokenizer on {', '.join(files)}", err=True)
    trained = text.train(
        [read_text() if file == "-" else Path(file) for file in files],
        kind,
        vocab_size,
        special_tokens=roles,
        extra_special_tokens=extra,
        lowercase=lowercase,
    )
    with atomic_directory(out) as directory:
        trained.save(directory)
    if as_json:
        result = {"path": str(out), "kind": kind, "vocab_size": trained.vocab_size, "special_tokens": trained.specials}
        typer.echo(json.dumps(result, ensure_ascii=False))
    else:
        typer.echo(f"{out}: a {kind} tokenizer of {trained.vocab_size} tokens")


@app.command()
def show(
    tokenizer: Path = typer.Argument(..., metavar="TOK", help="A directory with a tokenizer.json, or that file."),
    text: str = typer.Argument(..., help="The text to cut; - reads standard input."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON list."),
) -> None:
    """Show the tokens of a text: its pieces, their ids, and the characters that each stands for."""
    from ..text import Tokenizer

    pieces = Tokenizer.load(tokenizer).pieces(read_text() if text == "-" else text)
    if as_json:
        typer.echo(json.dumps([asdict(piece) for piece in pieces], ensure_ascii=False))
    else:
        rows = [(json.dumps(piece.text, ensure_ascii=False), str(piece.id), f"{piece.start}-{piece.end}") for piece in pieces]
        typer.echo(_table([("piece", "id", "characters"), *rows]))


def _refuse_other_files(out: Path, tokenizer_files: Sequence[str], overwrite: bool) -> None:
    if not out.is_dir():
        return
    others = sorted(file.name for file in out.iterdir() if file.name not in tokenizer_files)
    model = "config.json" in others
    if others and not (model and overwrite):
        cure = "add --overwrite to replace the tokenizer of the model there" if model else "name another directory"
        raise OptionError(f"--out must be a new directory or a tokenizer's, got {out}, which holds {others[0]}; {cure}")


def _split_specials(special: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """``["bos=<s>", "<|user|>"]`` -> ``({"bos_token": "<s>"}, ["<|user|>"])``. A token may hold an equals sign itself."""
    from ..text.tokenizer import ROLES

    roles, extra = {}, []
    for entry in special:
        role, equals, token = entry.partition("=")
        if equals and f"{role}_token" in ROLES:
            roles[f"{role}_token"] = token
        else:
            extra.append(entry)
    return roles, extra


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The rows under each other, the columns aligned by how wide a terminal shows them."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _width(text: str) -> int:
    """Terminal columns: none for combining marks, two for wide characters."""
    return sum(0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
