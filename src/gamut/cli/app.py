"""The root of the ``gamut`` command: its nouns, and the one place where an error becomes a message and an exit code.

A noun's module is imported when that noun runs, so that ``gamut --help`` costs no more than the table below.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from ..errors import GamutError
from ..version import __version__

# Noun -> (where it lives, what the list of commands says of it). A home is a function or a typer.Typer with verbs.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "tokenizer": ("gamut.cli.tokenizer:app", "Train a tokenizer, or see what one makes of a text."),
    "generate": ("gamut.cli.generate:generate", "Continue a text with a model."),
    "chat": ("gamut.cli.chat:chat", "Talk with a model in the terminal."),
    "models": ("gamut.cli.models:app", "Show what a model is made of."),
    "doctor": ("gamut.cli.doctor:doctor", "Check this machine and this installation."),
}


class Group(TyperGroup):
    """A noun with verbs. Named without a verb, it prints its help on standard error and exits with 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
        return super().parse_args(ctx, args)


class Deferred(TyperCommand):
    """Stands in the list of commands for one whose module is imported only when it runs, or is asked for its help."""

    def __init__(self, name: str, home: str, summary: str) -> None:
        super().__init__(name, short_help=summary, rich_markup_mode=None)
        self.home = home

    def load(self) -> TyperGroup | TyperCommand:
        """Import the command itself."""
        assert self.name is not None
        module, _, attribute = self.home.partition(":")
        target = getattr(import_module(module), attribute)
        # A parent of its own gives every command the same plain help, whatever its module chose.
        parent = typer.Typer(add_completion=False, rich_markup_mode=None)
        parent.callback()(_nothing)
        if isinstance(target, typer.Typer):
            parent.add_typer(target, name=self.name, cls=Group)
        else:
            parent.command(self.name)(target)
        group = get_command(parent)
        assert isinstance(group, TyperGroup)
        command = group.commands[self.name]
        assert isinstance(command, TyperGroup | TyperCommand)
        return command

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        # The context holds the command itself, and from here on typer works with that.
        return self.load().make_context(info_name, args, parent=parent, **extra)


app = typer.Typer(cls=Group, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gamut {__version__}")
        raise typer.Exit


@app.callback()
def _gamut(
    version: bool = typer.Option(False, "--version", is_eager=True, callback=_print_version, help="Show the version and exit."),
) -> None:
    """Understand, build, adapt, measure and ship generative models, offline."""


def _nothing() -> None:
    """Makes a typer.Typer a group, whose one command keeps its name."""


def root(commands: Mapping[str, tuple[str, str]] = COMMANDS) -> TyperGroup:
    """The whole command, with every noun of `commands` in place and none of their modules imported."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    for name, (home, summary) in commands.items():
        group.add_command(Deferred(name, home, summary))
    return group


def main(args: Sequence[str] | None = None, commands: Mapping[str, tuple[str, str]] = COMMANDS) -> int:
    """Run the command line and return its exit code.

    An error that gamut or the option parser raises on purpose becomes ``error: message`` on standard error; with ``--json``
    among the arguments it becomes ``{"error": {"message", "type"}}`` there. Any other exception is a bug and passes
    through with its traceback.

    Args:
        args: the arguments after the program's name; ``None`` takes those of the process.
        commands: noun -> (``module:attribute``, summary).
    """
    # Handed over as a list because typer expands ~, $NAME and * on Windows otherwise, and prompts hold those.
    given = sys.argv[1:] if args is None else list(args)
    _use_utf8()
    color = False if os.environ.get("NO_COLOR") else None
    try:
        code = root(commands).main(given, prog_name="gamut", standalone_mode=False, color=color)
        if sys.stdout is not None:  # None where the caller closed it (``>&-``)
            sys.stdout.flush()
    except GamutError as error:
        return _report(error, str(error), error.exit_code, given)
    except typer.TyperException as error:
        return _report(error, _with_hint(error), error.exit_code, given)
    except typer.Abort as error:
        return _report(error, "the input ended before the question was answered", 1, given)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone. The interpreter flushes once more at its end, and that must reach something.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _report(error, "standard output cannot be written: no space left; make room, or send it elsewhere", 1, given)
    # What typer returns is the code of a typer.Exit, or else the command's own result: None.
    return code or 0


def _use_utf8() -> None:
    """Read and write UTF-8 even where the system's encoding is another, as in a pipe on Windows."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=stream.errors)


def _with_hint(error: typer.TyperException) -> str:
    """The option parser's message, and the command that shows what would have been right."""
    context = getattr(error, "ctx", None)
    hint = f"\nrun: {context.command_path} --help" if context is not None else ""
    return error.format_message() + hint


def _report(error: Exception, message: str, code: int, args: Sequence[str]) -> int:
    """Print one error on standard error and return `code`."""
    options = args[: args.index("--")] if "--" in args else args
    if "--json" in options:
        print(json.dumps({"error": {"message": message, "type": type(error).__name__}}, ensure_ascii=False), file=sys.stderr)
    else:
        print(f"error: {message}", file=sys.stderr)
    return code
