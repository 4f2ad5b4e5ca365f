"""The house: which room may import which. Every import in src/gamut is held against the table of floors.

The table is a copy of the design's, made by hand, so that a change of the house is made in two places on purpose.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "gamut"

# Floor -> its rooms. A room is a folder of src/gamut or a file at its root.
FLOORS: dict[int, tuple[str, ...]] = {
    0: ("errors", "version"),
    1: ("types", "device", "settings", "wire", "sandbox", "statistics", "audit"),
    2: ("text", "nn", "prompt"),
    3: ("data", "generate", "checkpoint"),
    4: ("train", "models"),
    5: ("tune", "inspect", "image", "rag", "guard", "evals"),
    6: ("session",),
    7: ("project", "serve"),
    8: ("cli",),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
ROOF = ("gamut", "__main__")
"""``gamut/__init__.py`` and ``gamut/__main__.py``: they may import any room, and only cli may import the first.

The version is the one thing that every file may import.
"""


def violations(source: Path) -> list[str]:
    """Every breach of the house's rules under `source`, a folder named gamut: ``path:line: who imports what it may not``."""
    found = []
    for path in sorted(source.rglob("*.py")):
        module = _module_of(path, source)
        room = _room_of(module)
        where = path.relative_to(source.parent).as_posix()
        if room not in FLOOR_OF and room not in ROOF:
            found.append(f"{where}: no room of the house is called {room!r}; give it a floor in the design and in FLOORS")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        for line, target in sorted(_imports(tree, module, is_package=path.name == "__init__.py")):
            if _forbidden(room, _room_of(target)):
                found.append(f"{where}:{line}: {module} ({_floor(room)}) imports {target} ({_floor(_room_of(target))})")
    return found


def _forbidden(importer: str, imported: str) -> bool:
    """Whether the room `importer` must not import the room `imported`."""
    if imported in (importer, "version"):
        return False
    if imported == "__main__" or (imported != "gamut" and imported not in FLOOR_OF):
        return True
    if importer in ROOF:
        return False
    if imported == "gamut":
        return importer != "cli"
    return FLOOR_OF[imported] >= FLOOR_OF[importer]


def _floor(room: str) -> str:
    if room in ROOF:
        return "the roof"
    return f"floor {FLOOR_OF[room]}" if room in FLOOR_OF else "no floor"


def _module_of(path: Path, source: Path) -> str:
    parts = ["gamut", *path.relative_to(source).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _room_of(module: str) -> str:
    """``gamut.nn.cache`` -> ``nn``; ``gamut`` itself is the roof."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def _imports(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import of gamut in `tree`: at the top, in functions, under TYPE_CHECKING, by name."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            # What is imported from the top is a room, or else a name that lives in gamut/__init__.py.
            rooms = [f"gamut.{alias.name}" if alias.name in FLOOR_OF else "gamut" for alias in node.names]
            rooms += ["gamut.__main__" for alias in node.names if alias.name == "__main__"]
            # gamut/__init__.py does not import itself when it says ``from . import types``.
            targets = rooms if base == "gamut" else [base]
        elif isinstance(node, ast.Call) and (name := _imported_by_call(node)):
            targets = [_absolute(name, _anchor(node, package))]
        for target in targets:
            if target.split(".")[0] == "gamut":
                yield node.lineno, target


def _absolute(name: str, package: str) -> str:
    """The full name of a module that is written with leading dots, seen from `package`."""
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], *filter(None, [name[level:]])])


def _imported_by_call(call: ast.Call) -> str | None:
    """The name in ``import_module("name")``, ``importlib.import_module("name")`` and ``__import__("name")``."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
    if function not in ("import_module", "__import__"):
        return None
    name = call.args[0] if call.args else next((k.value for k in call.keywords if k.arg == "name"), None)
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None


def _anchor(call: ast.Call, package: str) -> str:
    """The package that a relative ``import_module(".name", package)`` starts from: a literal, or that of the file."""
    given = call.args[1] if len(call.args) > 1 else next((k.value for k in call.keywords if k.arg == "package"), None)
    return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else package


def test_the_house_keeps_its_rules() -> None:
    assert list(SOURCE.rglob("*.py")), f"no source under {SOURCE}"
    assert violations(SOURCE) == []


def test_no_room_is_on_two_floors() -> None:
    assert len(FLOOR_OF) == sum(len(rooms) for rooms in FLOORS.values())


# The checker itself, on small made-up houses. Each file is path -> text.


def build(folder: Path, files: dict[str, str]) -> Path:
    source = folder / "gamut"
    for name, text in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return source


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        # up, in every way of writing it
        ("nn/a.py", "import gamut.train.loop", ":1: gamut.nn.a (floor 2) imports gamut.train.loop (floor 4)"),
        ("nn/a.py", "from gamut.train import loop", ":1: gamut.nn.a (floor 2) imports gamut.train (floor 4)"),
        ("nn/a.py", "from gamut import train", ":1: gamut.nn.a (floor 2) imports gamut.train (floor 4)"),
        ("nn/a.py", "from ..train.loop import run", ":1: gamut.nn.a (floor 2) imports gamut.train.loop (floor 4)"),
        ("nn/a.py", "from .. import errors, train", ":1: gamut.nn.a (floor 2) imports gamut.train (floor 4)"),
        ("nn/__init__.py", "from ..models import local", ":1: gamut.nn (floor 2) imports gamut.models (floor 4)"),
        ("checkpoint/families/a.py", "from ...cli import app", ":1: gamut.checkpoint.families.a (floor 3) imports gamut.cli"),
        ("nn/a.py", "def f():\n    import gamut.cli", ":2: gamut.nn.a (floor 2) imports gamut.cli (floor 8)"),
        (
            "nn/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..models.local import LanguageModel",
            ":3: gamut.nn.a (floor 2) imports gamut.models.local (floor 4)",
        ),
        ("nn/a.py", "import importlib\nimportlib.import_module('gamut.cli')", ":2: gamut.nn.a (floor 2) imports gamut.cli"),
        (
            "nn/a.py",
            "from importlib import import_module as i, import_module\nimport_module(name='gamut.cli')",
            ":2: gamut.nn.a",
        ),
        ("nn/a.py", "import_module('..cli.app', __package__)", ":1: gamut.nn.a (floor 2) imports gamut.cli.app (floor 8)"),
        ("nn/a.py", "import_module('.cli', 'gamut')", ":1: gamut.nn.a (floor 2) imports gamut.cli (floor 8)"),
        ("nn/a.py", "__import__('gamut.cli')", ":1: gamut.nn.a (floor 2) imports gamut.cli (floor 8)"),
        # across
        ("nn/a.py", "from ..text import chat", ":1: gamut.nn.a (floor 2) imports gamut.text (floor 2)"),
        ("serve/app.py", "from ..project import run", ":1: gamut.serve.app (floor 7) imports gamut.project (floor 7)"),
        # the files of floor 1 see errors alone, and floor 0 sees nothing
        ("types.py", "from .device import pick", ":1: gamut.types (floor 1) imports gamut.device (floor 1)"),
        ("types.py", "from .nn import config", ":1: gamut.types (floor 1) imports gamut.nn (floor 2)"),
        ("errors.py", "from .types import Message", ":1: gamut.errors (floor 0) imports gamut.types (floor 1)"),
        ("version.py", "from .errors import GamutError", ":1: gamut.version (floor 0) imports gamut.errors (floor 0)"),
        # the roof
        ("serve/app.py", "import gamut", ":1: gamut.serve.app (floor 7) imports gamut (the roof)"),
        ("serve/app.py", "from gamut import load", ":1: gamut.serve.app (floor 7) imports gamut (the roof)"),
        ("serve/app.py", "from .. import load", ":1: gamut.serve.app (floor 7) imports gamut (the roof)"),
        ("cli/app.py", "from gamut import __main__", ":1: gamut.cli.app (floor 8) imports gamut.__main__ (the roof)"),
        ("cli/app.py", "import gamut.__main__", ":1: gamut.cli.app (floor 8) imports gamut.__main__ (the roof)"),
        # rooms that the design does not know
        ("cli/app.py", "from ..cellar import wine", ":1: gamut.cli.app (floor 8) imports gamut.cellar (no floor)"),
        ("cellar/wine.py", "", ": no room of the house is called 'cellar'"),
        ("utils.py", "", ": no room of the house is called 'utils'"),
    ],
)
def test_a_broken_rule_is_reported_with_its_place(tmp_path: Path, file: str, text: str, message: str) -> None:
    found = violations(build(tmp_path, {file: text}))
    assert any(line.startswith(f"gamut/{file}{message}") for line in found), found


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "nn/a.py",
            "import torch\nfrom . import b\nfrom .b import c\nfrom gamut.nn.b import c\nfrom ..errors import GamutError",
        ),
        ("nn/a.py", "from ..types import Message\nfrom gamut import types, device\nfrom .. import version"),
        ("types.py", "from .errors import OptionError\nfrom .version import __version__"),
        ("checkpoint/families/a.py", "from ..io import read\nfrom ...nn.config import StackConfig\nfrom . import b"),
        ("cli/app.py", "import gamut\nfrom gamut import load\nfrom ..serve import app\nfrom .chat import chat"),
        ("__init__.py", "from .models.registry import load\nfrom .version import __version__\nfrom . import types"),
        ("__main__.py", "from .cli.app import main"),
        ("nn/a.py", "import gamutlike.cli\nfrom other.gamut import cli\nimport_module('cli')"),
    ],
)
def test_a_lawful_import_passes(tmp_path: Path, file: str, text: str) -> None:
    assert violations(build(tmp_path, {file: text})) == []


def test_every_breach_is_reported(tmp_path: Path) -> None:
    files = {"nn/a.py": "import gamut.cli\nimport gamut.text", "types.py": "from . import nn", "errors.py": ""}
    assert [line.split(" ")[0] for line in violations(build(tmp_path, files))] == [
        "gamut/nn/a.py:1:",
        "gamut/nn/a.py:2:",
        "gamut/types.py:1:",
    ]
