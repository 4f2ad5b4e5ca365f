"""Writes the pages of docs/ that are made from the code: ``python scripts/docs.py``. Today that is cli.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from gamut.cli.app import COMMANDS, Deferred, root

DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDTH = 100
"""Columns of the help text, whatever the terminal that this runs in."""

HEAD = """\
# The command line

What every command says of itself under `--help`. This page is written by `make docs`; change the commands, not the page.
"""


def command_page(commands: Mapping[str, tuple[str, str]] = COMMANDS) -> str:
    """The text of cli.md: the help of the root, of every noun and of every verb, in the order of the table."""
    sections = [f"## {path}\n\n```text\n{text}\n```\n" for path, text in _helps(root(commands), "gamut", None)]
    return "\n".join([HEAD, *sections])


def _helps(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    """(full name, help text) of `command`, and of every command below it that is not hidden."""
    if isinstance(command, Deferred):
        command = command.load()
    context = command.make_context(
        name, [], parent=parent, resilient_parsing=True, terminal_width=WIDTH, max_content_width=WIDTH
    )
    text = command.get_help(context)
    yield context.command_path, "\n".join(line.rstrip() for line in text.splitlines())
    if isinstance(command, TyperGroup):
        for verb, below in command.commands.items():
            if not below.hidden:
                yield from _helps(below, verb, context)


def main() -> None:
    """Write every generated page."""
    (DOCS / "cli.md").write_text(command_page(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
