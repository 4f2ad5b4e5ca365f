"""`gamut generate` against the library that it wraps: every option changes what comes out, and nothing is swallowed."""

from __future__ import annotations

import io
import json
import shutil
import sys
from dataclasses import asdict, fields
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch

import gamut
from gamut.cli.app import main
from gamut.cli.sampling import SAMPLING_OPTIONS, parse_biases
from gamut.errors import OptionError
from gamut.types import SamplingParams

PROMPT = "the old boat"
EOS = 3
"""The end-of-sequence id of the model: the tokenizer's special tokens come first."""
BASE = {"max_new_tokens": 8}
SAMPLED = BASE | {"temperature": 3.0, "seed": 0}
BEAMS = BASE | {"num_beams": 3, "logit_bias": {EOS: 3.0}, "length_penalty": 2.0}

# Option -> (what it is added to, its value). In each case the value changes the outcome.
CHANGES: dict[str, list[tuple[dict[str, Any], Any]]] = {
    "max_new_tokens": [(BASE, 3)],
    "min_new_tokens": [(BASE | {"logit_bias": {EOS: 100.0}}, 2)],
    "logit_bias": [(BASE, {10: -inf, 24: 2.5})],
    "repetition_penalty": [(BASE, 5.0)],
    "frequency_penalty": [(BASE, 9.0)],
    "presence_penalty": [(BASE, 9.0)],
    "no_repeat_ngram_size": [(BASE, 1)],
    "temperature": [(BASE | {"seed": 0}, 1.0)],
    "top_k": [(SAMPLED, 2)],
    "top_p": [(SAMPLED, 0.3)],
    "min_p": [(SAMPLED, 0.5)],
    "typical_p": [(SAMPLED, 0.3)],
    "seed": [(SAMPLED, 1)],
    "num_return_sequences": [(SAMPLED, 3)],
    "num_beams": [(BASE, 3)],
    "length_penalty": [(BEAMS, -1.0)],
    "early_stopping": [(BEAMS, True), (BEAMS | {"early_stopping": True}, False), (BEAMS, "never")],
    "stop": [(BASE, ("captain",)), (BASE, ("morning", "captain"))],
    "logprobs": [(BASE, 2)],
}


def arguments(options: dict[str, Any]) -> list[str]:
    """The command line that means `options`."""
    given: list[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if name == "logit_bias":
            given += [word for token, bias in value.items() for word in (flag, f"{token}={bias}")]
        elif name == "stop":
            given += [word for text in value for word in (flag, text)]
        else:
            given += [flag, str(value).lower()]
    return given


def as_json(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    code = main(["generate", *args, "--json"])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    result: dict[str, Any] = json.loads(captured.out)
    return result


def failure(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    code = main(["generate", *args])
    captured = capsys.readouterr()
    assert captured.out == ""
    return code, captured.err


def type_in(monkeypatch: pytest.MonkeyPatch, octets: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(octets), encoding="utf-8"))


@pytest.fixture(scope="module")
def lm(model: Path) -> gamut.LanguageModel:
    return gamut.load(str(model), device="cpu")


def test_there_is_one_option_for_every_field_in_its_order():
    assert list(SAMPLING_OPTIONS) == [field.name for field in fields(SamplingParams)]
    assert list(CHANGES) == list(SAMPLING_OPTIONS)


@pytest.mark.parametrize(
    ("name", "base", "value"), [(name, base, value) for name, cases in CHANGES.items() for base, value in cases]
)
def test_every_option_changes_the_outcome_as_in_the_library(
    name: str,
    base: dict[str, Any],
    value: Any,
    model: Path,
    lm: gamut.LanguageModel,
    capsys: pytest.CaptureFixture[str],
):
    without = as_json(capsys, str(model), PROMPT, *arguments(base))
    found = as_json(capsys, str(model), PROMPT, *arguments(base | {name: value}))
    expected = lm.generate(PROMPT, **(base | {name: value}))
    assert found == json.loads(json.dumps({"model": str(model), "prompt": PROMPT, **asdict(expected)}))
    assert found != without


def test_the_json_object_has_all_that_a_completion_has(model: Path, capsys: pytest.CaptureFixture[str]):
    result = as_json(capsys, str(model), PROMPT, *arguments(SAMPLED | {"num_return_sequences": 2, "logprobs": 1}))
    wanted = {"model", "prompt", "text", "ids", "finish_reason", "prompt_tokens", "logprobs", "score", "alternatives"}
    assert set(result) == wanted
    assert result["prompt_tokens"] == len(PROMPT.split())
    assert len(result["logprobs"]) == len(result["ids"])
    (other,) = result["alternatives"]
    assert len(other["logprobs"]) == len(other["ids"])


def test_plain_output_is_the_text_and_a_newline(model: Path, lm: gamut.LanguageModel, capsys: pytest.CaptureFixture[str]):
    assert main(["generate", str(model), PROMPT, "--max-new-tokens", "8"]) == 0
    captured = capsys.readouterr()
    assert captured.out == lm.generate(PROMPT, max_new_tokens=8).text + "\n"
    assert captured.err == ""


class Recorder(io.StringIO):
    """A stream that keeps what had been written at each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[str] = []

    def flush(self) -> None:
        self.flushed.append(self.getvalue())


def test_plain_output_comes_token_by_token(model: Path, lm: gamut.LanguageModel, monkeypatch: pytest.MonkeyPatch):
    recorder = Recorder()
    monkeypatch.setattr(sys, "stdout", recorder)
    assert main(["generate", str(model), PROMPT, "--max-new-tokens", "8"]) == 0
    texts = [chunk.text for chunk in lm.stream(PROMPT, max_new_tokens=8)]
    assert recorder.flushed[: len(texts)] == ["".join(texts[: count + 1]) for count in range(len(texts))]


def test_several_texts_have_an_empty_line_between_them(
    model: Path, lm: gamut.LanguageModel, capsys: pytest.CaptureFixture[str]
):
    asked = SAMPLED | {"num_return_sequences": 3}
    assert main(["generate", str(model), PROMPT, *arguments(asked)]) == 0
    first = lm.generate(PROMPT, **asked)
    assert capsys.readouterr().out.split("\n\n") == [first.text, first.alternatives[0].text, first.alternatives[1].text + "\n"]


def test_several_texts_by_the_models_own_defaults(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    several = shutil.copytree(model, tmp_path / "several")
    (several / "generation_config.json").write_text('{"num_beams": 2, "num_return_sequences": 2, "max_new_tokens": 4}')
    assert main(["generate", str(several), PROMPT]) == 0
    assert len(capsys.readouterr().out.split("\n\n")) == 2


@pytest.mark.parametrize("octets", [b"the old boat", b"the old boat\n", b"the old boat\r\n"])
def test_a_dash_reads_standard_input_without_its_last_newline(
    octets: bytes, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    type_in(monkeypatch, octets)
    assert as_json(capsys, str(model), "-", "--max-new-tokens", "2")["prompt"] == PROMPT


@pytest.mark.parametrize("octets", [b"", b"\n"])
def test_empty_standard_input_is_refused(
    octets: bytes, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    type_in(monkeypatch, octets)
    code, message = failure(capsys, str(model), "-")
    assert code == 2
    assert "got nothing" in message


def test_standard_input_that_is_not_utf8_is_refused_with_its_place(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    type_in(monkeypatch, "Fluß".encode("latin-1"))
    code, message = failure(capsys, str(model), "-")
    assert code == 2
    assert "0xDF at byte offset 3" in message


def test_device_and_dtype_reach_the_model(model: Path, capsys: pytest.CaptureFixture[str]):
    exact = as_json(capsys, str(model), PROMPT, "--logprobs", "0", "--device", "cpu", "--max-new-tokens", "1")
    rounded = as_json(capsys, str(model), PROMPT, "--logprobs", "0", "--dtype", "bfloat16", "--max-new-tokens", "1")
    assert exact["logprobs"][0]["raw"] != rounded["logprobs"][0]["raw"]
    assert exact["logprobs"][0]["raw"] == pytest.approx(rounded["logprobs"][0]["raw"], abs=0.1)
    code, message = failure(capsys, str(model), PROMPT, "--device", "cuda:99")
    assert code == 4
    assert "cuda:99" in message
    code, message = failure(capsys, str(model), PROMPT, "--dtype", "float8")
    assert code == 2
    assert "float8" in message


def test_a_pickle_is_read_only_where_it_is_allowed(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from safetensors.torch import load_file

    pickled = shutil.copytree(model, tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    code, message = failure(capsys, str(pickled), PROMPT)
    assert code == 1
    assert "pytorch_model.bin" in message
    allowed = as_json(capsys, str(pickled), PROMPT, "--allow-pickle", "--max-new-tokens", "8")
    assert allowed["ids"] == as_json(capsys, str(model), PROMPT, "--max-new-tokens", "8")["ids"]


def test_logprobs_without_json_are_refused(model: Path, capsys: pytest.CaptureFixture[str]):
    code, message = failure(capsys, str(model), PROMPT, "--logprobs", "1")
    assert code == 2
    assert "--json" in message


def test_a_model_without_tokenizer_is_refused_with_the_cure(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bare = shutil.copytree(model, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*", "*.jinja"))
    code, message = failure(capsys, str(bare), PROMPT)
    assert code == 1
    assert "no tokenizer" in message
    assert "tokenizer.json" in message


def test_a_model_that_is_not_there_exits_with_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    code, message = failure(capsys, str(tmp_path / "nowhere"), PROMPT)
    assert code == 3
    assert "nowhere" in message


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--top-p", "2"], "top_p must be a number above 0 and at most 1"),
        (["--top-k", "5"], "top_k=5 would have no effect at temperature 0"),
        (["--top-k", "many"], "--top-k"),
        (["--max-new-tokens", "1000"], "the context holds 64"),
        (["--logit-bias", "5"], "--logit-bias must be ID=VALUE"),
        (["--logit-bias", "5=1", "--logit-bias", "5=2"], "names the id 5 twice"),
        (["--logit-bias", "9999=1"], "9999"),
        (["--early-stopping", "perhaps"], "--early-stopping"),
        (["--stop", ""], "stop must be a non-empty text"),
        (["--max-tokens", "5"], "--max-new-tokens"),
    ],
)
def test_a_wrong_option_exits_with_2_and_says_what_is_right(
    given: list[str], words: str, model: Path, capsys: pytest.CaptureFixture[str]
):
    code, message = failure(capsys, str(model), PROMPT, *given)
    assert code == 2
    assert words in message


@pytest.mark.parametrize("entry", ["", "5", "=1", "x=1", "5=much", "5:1"])
def test_a_bias_of_another_form_is_refused(entry: str):
    with pytest.raises(OptionError, match=r"ID=VALUE, as in 42=-5 or 42=-inf"):
        parse_biases([entry])
