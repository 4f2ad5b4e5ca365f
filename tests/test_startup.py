"""What starting costs: neither ``import gamut`` nor ``gamut --help`` imports a heavy package. Times: benchmarks/startup.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "tokenizers", "numpy")


def imported_by(code: str) -> set[str]:
    """The top-level modules that are there once a fresh interpreter has run `code`."""
    report = "\nimport sys\nprint(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "import gamut",
        "import gamut.errors, gamut.types, gamut.version",
        "from gamut.cli.app import main; assert main(['--help']) == 0",
        "from gamut.cli.app import main; assert main(['--version']) == 0",
    ],
)
def test_starting_imports_nothing_heavy(code: str) -> None:
    modules = imported_by(code)
    assert "gamut" in modules
    assert modules.isdisjoint(HEAVY)


def test_the_check_sees_a_heavy_import() -> None:
    assert "numpy" in imported_by("import numpy")
