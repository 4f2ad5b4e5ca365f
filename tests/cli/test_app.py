"""The root command, tried on a made-up table of commands: what is imported when, and what an error looks like."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from gamut.cli.app import COMMANDS, main, root
from gamut.version import __version__

MADE_UP = '''
import sys

import typer

from gamut.errors import CancelledError, MissingError, NotFoundError, OptionError, WeightsError

ERRORS = {e.__name__: e for e in (CancelledError, MissingError, NotFoundError, OptionError, WeightsError)}
verbs = typer.Typer(help="A noun with verbs.", no_args_is_help=True)


@verbs.command()
def count(words: list[str], upper: bool = typer.Option(False, "--upper", help="Say it loudly.")) -> None:
    """Count words."""
    typer.echo(f"{len(words)} WORDS" if upper else f"{len(words)} words")


def fail(name: str, json: bool = typer.Option(False, "--json")) -> None:
    """Raise a named error."""
    if name == "interrupt":
        raise KeyboardInterrupt
    if name == "bug":
        raise ZeroDivisionError("a bug")
    if name == "threshold":
        raise typer.Exit(5)
    if name == "question":
        raise EOFError
    raise ERRORS[name]("no such thing: expected é, got ü")


def green() -> None:
    """Say one coloured word, whatever the terminal."""
    typer.secho("grün", fg="green")


def flood() -> None:
    """Print more than any pipe holds."""
    for _ in range(200_000):
        print("a line")
'''

TABLE = {
    "verbs": ("made_up:verbs", "A noun with verbs."),
    "fail": ("made_up:fail", "Raise a named error."),
    "green": ("made_up:green", "Say one coloured word."),
    "flood": ("made_up:flood", "Print a lot."),
    "broken": ("a_module_that_is_not_there:app", "Cannot be imported."),
}


@pytest.fixture(autouse=True)
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the module that TABLE speaks of, importable during one test."""
    (tmp_path / "made_up.py").write_text(MADE_UP, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "made_up", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield tmp_path
    sys.modules.pop("made_up", None)


def in_a_process(folder: Path, *args: str, stdout: Any = subprocess.PIPE, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run main() as the installed command runs it, on TABLE."""
    code = f"import sys; from gamut.cli.app import main; sys.exit(main({list(args)!r}, {TABLE!r}))"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(folder), **env},
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
    )


def test_help_lists_every_command_and_imports_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], TABLE) == 0
    out = capsys.readouterr().out
    for name, (_, summary) in TABLE.items():
        assert f"  {name}" in out
        assert summary in out
    assert "--install-completion" in out
    assert "made_up" not in sys.modules


def test_the_list_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"], TABLE)
    main(["verbs", "--help"], TABLE)
    out = capsys.readouterr().out
    assert "A noun with verbs." in out
    assert out.isascii(), "boxes or colours in the help"
    assert "\x1b" not in out


@pytest.mark.parametrize("home", [home for home, _ in COMMANDS.values()])
def test_every_home_in_the_table_is_there(home: str) -> None:
    module, _, attribute = home.partition(":")
    assert callable(getattr(import_module(module), attribute))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"], TABLE) == 0
    assert capsys.readouterr().out == f"gamut {__version__}\n"


def test_a_verb_runs_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verbs", "count", "a", "b", "--upper"], TABLE) == 0
    assert capsys.readouterr().out == "2 WORDS\n"


def test_the_help_of_a_command_names_the_whole_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verbs", "count", "--help"], TABLE) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: gamut verbs count [OPTIONS]")
    assert "Say it loudly." in out


@pytest.mark.parametrize("args", [[], ["verbs"]])
def test_a_noun_alone_prints_its_help_on_stderr_and_exits_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args, TABLE) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("Usage: gamut")


@pytest.mark.parametrize(
    ("args", "nearest", "cure"),
    [
        (["verb", "count"], "'verbs'", "run: gamut --help"),
        (["verbs", "cuont", "a"], "'count'", "run: gamut verbs --help"),
        (["verbs", "count", "a", "--uper"], "--upper", "run: gamut verbs count --help"),
        (["--verison"], "--version", "run: gamut --help"),
    ],
)
def test_a_misspelt_word_exits_2_and_names_the_nearest(
    args: list[str], nearest: str, cure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args, TABLE) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: No such ")
    assert nearest in captured.err
    assert captured.err.endswith(f"{cure}\n")


def test_a_missing_argument_exits_2_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fail"], TABLE) == 2
    assert "name" in capsys.readouterr().err.lower()


@pytest.mark.parametrize(
    ("name", "code"),
    [("WeightsError", 1), ("OptionError", 2), ("NotFoundError", 3), ("MissingError", 4), ("CancelledError", 130)],
)
def test_an_error_of_ours_becomes_a_message_and_its_exit_code(name: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fail", name], TABLE) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: no such thing: expected é, got ü\n"


def test_with_json_an_error_is_json_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fail", "NotFoundError", "--json"], TABLE) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    message = "no such thing: expected é, got ü"
    assert json.loads(captured.err) == {"error": {"message": message, "type": "NotFoundError"}}


def test_with_json_a_usage_error_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fail", "--json", "--jsn"], TABLE) == 2
    error = json.loads(capsys.readouterr().err)["error"]
    assert "--jsn" in error["message"]
    assert "--json" in error["message"]


def test_json_after_two_dashes_is_a_text_and_no_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verbs", "cuont", "--", "--json"], TABLE) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_an_interrupt_exits_130_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fail", "interrupt"], TABLE) == 130
    assert capsys.readouterr() == ("", "")


def test_an_exit_code_chosen_by_a_command_is_kept() -> None:
    assert main(["fail", "threshold"], TABLE) == 5


def test_input_that_ends_at_a_question_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fail", "question"], TABLE) == 1
    assert "error: the input ended" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(made_up: Path) -> None:
    done = in_a_process(made_up, "fail", "bug")
    assert done.returncode == 1
    assert done.stderr.startswith(b"Traceback (most recent call last):")
    assert done.stderr.strip().endswith(b"ZeroDivisionError: a bug")


@pytest.mark.skipif(os.name == "nt", reason="Windows pipes fail with another error")
@pytest.mark.parametrize("args", [("flood",), ("--help",)])
def test_a_reader_that_has_gone_is_no_error(made_up: Path, args: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = in_a_process(made_up, *args, stdout=writing)
    finally:
        os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 1


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_closed_stdout_is_no_error(made_up: Path) -> None:
    code = f"import sys; from gamut.cli.app import main; sys.exit(main(['--version'], {TABLE!r}))"
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(made_up)},
        stderr=subprocess.PIPE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_output_is_utf8_without_colours_off_a_terminal(made_up: Path) -> None:
    done = in_a_process(made_up, "green", PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert done.stderr == b""
    assert done.stdout.split() == ["grün".encode()]


@pytest.mark.skipif(os.name == "nt", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color_is_obeyed_on_a_terminal(made_up: Path, no_color: str, coloured: bool) -> None:
    ours, theirs = os.openpty()
    try:
        assert in_a_process(made_up, "green", stdout=theirs, NO_COLOR=no_color).returncode == 0
        shown = os.read(ours, 1000)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "grün".encode() in shown
    assert (b"\x1b[" in shown) is coloured


@pytest.mark.parametrize(("words", "expected"), [("gamut ve", b"verbs"), ("gamut verbs co", b"count")])
def test_the_shell_completes_nouns_and_verbs(made_up: Path, words: str, expected: bytes) -> None:
    done = in_a_process(made_up, _GAMUT_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
    assert done.stdout.split() == [expected]


def test_a_command_loads_as_itself() -> None:
    verbs = root(TABLE).commands["verbs"].load()
    assert list(verbs.commands) == ["count"]
