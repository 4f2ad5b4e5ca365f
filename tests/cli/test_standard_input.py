"""What a dash stands for, and what becomes of a closed input and a full output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gamut.cli import standard_input
from gamut.errors import UsageError


def test_a_closed_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="standard input is closed; give the text in place of -"):
        standard_input.read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_output_ends_with_a_message() -> None:
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(
            [sys.executable, "-m", "gamut", "doctor", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=dict(os.environ),
            text=True,
        )
    assert run.returncode == 1
    assert "standard output cannot be written: no space left" in run.stderr
    assert "Traceback" not in run.stderr
