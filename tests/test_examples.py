"""The first example runs to its end, and every command and snippet of README.md and docs/ does what its page says."""

from __future__ import annotations

import io
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch

import gamut
from gamut.checkpoint.families import FAMILIES
from gamut.cli.app import main

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / "examples" / "first_model.py"
PAGES = [REPOSITORY / "README.md", *sorted(path for path in (REPOSITORY / "docs").glob("*.md") if path.name != "cli.md")]

ELSEWHERE = ("make", "python benchmarks/", "python scripts/")
"""How commands begin that belong to the checkout: `make test` runs this very test, and the rest have tests of their own."""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `make run` has run: with README.md, and the first model under runs/."""
    folder = tmp_path_factory.mktemp("workplace")
    shutil.copy(REPOSITORY / "README.md", folder)
    spec = spec_from_file_location("first_model", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = module_from_spec(spec)
    spec.loader.exec_module(example)
    example.make().save(folder / "runs" / "first_model")
    return folder


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and content."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one line of a shell block: ``gamut ...``, or ``echo TEXT | gamut ...``."""
    left, pipe, right = line.rpartition(" | ")
    program, *args = shlex.split(right, comments=True)
    assert program == "gamut", f"a page has a command that this test cannot run: {line}"
    if pipe:
        echo, *words = shlex.split(left)
        assert echo == "echo", line
        monkeypatch.setattr(sys, "stdin", io.StringIO(" ".join(words) + "\n"))
    assert main(args) == 0, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_snippet_of_a_page_runs(
    page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(workplace)
    known = dict(FAMILIES)
    names: dict[str, Any] = {}
    try:
        for language, content in blocks(page.read_text(encoding="utf-8")):
            assert language in ("sh", "python"), f"{page.name} has a block of unknown language {language!r}"
            if language == "python":
                exec(compile(content, str(page), "exec"), names)
            else:
                for line in content.splitlines():
                    if not line.startswith(ELSEWHERE):
                        run_line(line, monkeypatch)
    finally:
        FAMILIES.clear()
        FAMILIES.update(known)
        if "lm" in names:
            names["lm"].close()
    capsys.readouterr()


def test_the_figures_of_the_readme_are_those_of_the_example(workplace: Path):
    lm = gamut.load(str(workplace / "runs" / "first_model"), device="cpu")
    assert lm.tokenizer is not None
    weights = sum(weights.numel() for weights in lm.transformer.parameters())
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert f"a LLaMA of {weights:,} fresh weights and a tokenizer of {lm.tokenizer.vocab_size} tokens" in readme


def test_the_first_example_runs_off_a_terminal(tmp_path: Path):
    result = subprocess.run(
        [sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
    steps = re.findall(r"^(\d)\. ", result.stdout, flags=re.MULTILINE)
    assert steps == [str(number) for number in range(1, 8)]
    assert "noise" in result.stdout
    assert "\x1b" not in result.stdout

    lm = gamut.load(str(tmp_path / "runs" / "first_model"), device="cpu")
    assert lm.tokenizer is not None
    ids = lm.tokenizer.encode("the old boat is ready")
    assert "  ".join(f"{lm.tokenizer.token(id)}={id}" for id in ids) in result.stdout
    best, index = lm.logits(torch.tensor([ids]))[0, -1].softmax(-1).max(-1)
    assert f"{lm.tokenizer.token(int(index))} {best:.1%}" in result.stdout
    assert lm.generate("the old boat is ready", temperature=1.0, seed=0, max_new_tokens=16).text in result.stdout
    assert "[2, 4, 5, 5]" in result.stdout


def test_the_first_example_writes_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    result = subprocess.run(
        [sys.executable, str(EXAMPLE), "--out", str(tmp_path / "model")], cwd=tmp_path, capture_output=True, check=False
    )
    assert result.returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model"}
    monkeypatch.chdir(tmp_path)
    assert main(["models", "show", "model"]) == 0


def test_make_run_runs_the_first_example():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^run:.*\n\t\$\(PY\) examples/first_model\.py$", makefile, flags=re.MULTILINE)
