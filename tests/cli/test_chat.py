"""`gamut chat`: what it answers is what the library answers to the same history; what goes wrong ends a turn, not the talk."""

from __future__ import annotations

import io
import shutil
import signal
import sys
from collections.abc import Sequence
from inspect import signature
from pathlib import Path

import pytest

import gamut
from gamut import Message
from gamut.cli.app import main
from gamut.cli.chat import chat
from gamut.cli.sampling import SAMPLING_OPTIONS

FEW = ["--max-new-tokens", "4"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def talk(monkeypatch: pytest.MonkeyPatch, typed: str, model: Path, *args: str, stdin: type[io.StringIO] = io.StringIO) -> int:
    monkeypatch.setattr(sys, "stdin", stdin(typed))
    return main(["chat", str(model), *args])


def expected(model: Path, questions: Sequence[str], system: str | None = None, max_new_tokens: int = 4) -> list[str]:
    """The answers that the library gives, each with the whole history before it."""
    lm = gamut.load(str(model), device="cpu")
    history = [] if system is None else [Message("system", system)]
    answers = []
    for question in questions:
        history.append(Message("user", question))
        answers.append(lm.generate(history, max_new_tokens=max_new_tokens).text)
        history.append(Message("assistant", answers[-1]))
    return answers


def test_every_line_gets_its_answer_with_the_history_before_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert talk(monkeypatch, "the boat\nthe sea\nthe boat", model, *FEW) == 0
    captured = capsys.readouterr()
    answers = expected(model, ["the boat", "the sea", "the boat"])
    assert captured.out == "".join(answer + "\n" for answer in answers)
    assert captured.err == ""
    assert answers[0] != answers[2], "the history would not show"


def test_empty_lines_are_passed_over(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert talk(monkeypatch, "\n  \nthe boat\n\nthe sea\n\n", model, *FEW) == 0
    assert capsys.readouterr().out.splitlines() == expected(model, ["the boat", "the sea"])


def test_the_system_message_comes_first(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert talk(monkeypatch, "the boat\n", model, "--system", "the captain reads a map", *FEW) == 0
    (answer,) = capsys.readouterr().out.splitlines()
    assert [answer] == expected(model, ["the boat"], system="the captain reads a map")
    assert [answer] != expected(model, ["the boat"])


def test_a_terminal_has_a_prompt_and_ends_on_a_line_of_its_own(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert talk(monkeypatch, "the boat\n", model, *FEW, stdin=Terminal) == 0
    assert capsys.readouterr().out == f"> {expected(model, ['the boat'])[0]}\n> \n"


def test_standard_output_in_a_pipe_has_no_prompt(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert talk(monkeypatch, "the boat\n", model, *FEW, stdin=Terminal) == 0
    assert ">" not in capsys.readouterr().out


class InterruptsOnce(io.StringIO):
    """Sends the process an interrupt, as Ctrl-C does, when the third piece of the first answer is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    def write(self, text: str) -> int:
        written = super().write(text)
        self.writes += bool(text)
        if self.writes == 3:
            self.writes += 1
            signal.raise_signal(signal.SIGINT)
        return written


def test_ctrl_c_stops_the_answer_and_what_there_is_of_it_stays_in_the_history(model: Path, monkeypatch: pytest.MonkeyPatch):
    out = InterruptsOnce()
    monkeypatch.setattr(sys, "stdout", out)
    assert talk(monkeypatch, "the boat\nthe sea\n", model, "--max-new-tokens", "12") == 0
    partial, second = out.getvalue().splitlines()

    lm = gamut.load(str(model), device="cpu")
    shown = [chunk.text for chunk in lm.stream([Message("user", "the boat")], max_new_tokens=12) if chunk.text]
    assert len(shown) > 3
    assert partial == "".join(shown[:3])
    history = [Message("user", "the boat"), Message("assistant", partial), Message("user", "the sea")]
    assert second == lm.generate(history, max_new_tokens=12).text


def test_ctrl_c_at_the_prompt_ends_the_talk(model: Path, monkeypatch: pytest.MonkeyPatch):
    class Interrupted(io.StringIO):
        def readline(self, *_: object) -> str:
            signal.raise_signal(signal.SIGINT)
            return ""

    assert talk(monkeypatch, "", model, *FEW, stdin=Interrupted) == 130


def test_a_turn_that_does_not_fit_is_taken_back(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert talk(monkeypatch, f"the boat\n{'sea ' * 80}\nthe sea\n", model, *FEW) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == expected(model, ["the boat", "the sea"])
    assert "the context holds 64" in captured.err
    assert "taken back" in captured.err


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, *args: str) -> tuple[int, str]:
    """What is said before anything is read from standard input."""
    monkeypatch.setattr(sys, "stdin", None)
    code = main(["chat", str(model), *args])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def test_without_a_template_the_cure_comes_before_the_prompt(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    plain = shutil.copytree(model, tmp_path / "plain", ignore=shutil.ignore_patterns("*.jinja"))
    code, message = refused(monkeypatch, capsys, plain)
    assert code == 1
    assert "no chat template" in message
    assert "chat_template.jinja" in message


def test_without_a_tokenizer_the_cure_comes_before_the_prompt(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    bare = shutil.copytree(model, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*", "*.jinja"))
    code, message = refused(monkeypatch, capsys, bare)
    assert code == 1
    assert "tokenizer.json" in message


def test_a_template_that_refuses_the_system_message_does_so_before_the_prompt(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    strict = shutil.copytree(model, tmp_path / "strict")
    (strict / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    code, message = refused(monkeypatch, capsys, strict, "--system", "the sea")
    assert code == 1
    assert "no system turn" in message
    assert talk(monkeypatch, "the boat\n", strict, *FEW) == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--top-p", "2"], "top_p must be"),
        (["--top-k", "2"], "no effect at temperature 0"),
        (["--max-new-tokens", "64"], "the context holds 64"),
        (["--logit-bias", "x"], "ID=VALUE"),
        (["--num-return-sequences", "2"], "--num-return-sequences"),
        (["--logprobs", "1"], "--logprobs"),
        (["--dtype", "float8"], "float8"),
    ],
)
def test_a_wrong_option_is_refused_before_the_prompt(
    given: list[str], words: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    code, message = refused(monkeypatch, capsys, model, *given)
    assert code == 2
    assert words in message


def test_it_offers_every_sampling_option_that_it_can_obey():
    own = {"model", "system", "device", "dtype", "allow_pickle"}
    assert set(signature(chat).parameters) - own == set(SAMPLING_OPTIONS) - {"num_return_sequences", "logprobs"}


def test_sampling_options_reach_the_answer(model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    lm = gamut.load(str(model), device="cpu")
    for seed in (0, 1):
        assert talk(monkeypatch, "the boat\n", model, *FEW, "--temperature", "2", "--top-k", "9", "--seed", str(seed)) == 0
        wanted = lm.generate([Message("user", "the boat")], max_new_tokens=4, temperature=2.0, top_k=9, seed=seed)
        assert capsys.readouterr().out == wanted.text + "\n"


def test_a_checkpoint_that_asks_for_several_answers_gives_one(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    several = shutil.copytree(model, tmp_path / "several")
    (several / "generation_config.json").write_text('{"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 4}')
    assert talk(monkeypatch, "the boat\n", several) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_standard_input_that_is_not_utf8_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Fluß\n".encode("latin-1")), encoding="utf-8"))
    assert main(["chat", str(model)]) == 2
    assert "standard input must be UTF-8" in capsys.readouterr().err
