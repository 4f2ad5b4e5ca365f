"""The one Jinja sandbox: renders a template that may come from anywhere, within a limit of time and of size.

A template travels inside a checkpoint, so it is untrusted code. It sees plain JSON values alone, can change none of
them, reaches no attribute that leads into Python, and is stopped when it runs or grows without end. The limits stop
runaway templates; they are no defence against a process that must not be slowed down at all.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateSyntaxError, nodes
from jinja2 import TemplateError as JinjaError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from .errors import TemplateError

MAX_CHARS = 10_000_000
"""Most characters of a rendered text. On the way, also most items of a list and most bits of a number."""
MAX_SECONDS = 10.0
"""Longest time that one rendering may take."""

_deadline: ContextVar[float] = ContextVar("deadline")


def render(source: str, variables: Mapping[str, object], *, name: str = "template", seconds: float = MAX_SECONDS) -> str:
    """Render a Jinja template.

    The environment is the one that chat templates are written for: ``trim_blocks``, ``lstrip_blocks``, ``break`` and
    ``continue``, ``{% generation %}`` (which marks what the model says and prints its content), ``raise_exception``,
    ``strftime_now``, and a ``tojson`` that escapes no HTML.

    Args:
        source: the template.
        variables: what it may read: JSON values (None, bool, int, float, str, and lists, tuples and mappings of those).
        name: what to call the template in messages.
        seconds: how long it may run.

    Raises:
        TemplateError: for a syntax error (with its line), an undefined value that is used, an attempt to leave the
            sandbox, an error that the template raises itself, a value that is not JSON, or a limit that was passed.
    """
    template = _compile(source, name)
    values = {key: _plain(value, key) for key, value in variables.items()}
    pieces: list[str] = []
    chars = 0
    with _time_limit(seconds):
        try:
            for piece in template.generate(values):
                chars += len(piece)
                _check_size(chars)
                pieces.append(piece)
        except (JinjaError, _LimitError) as error:
            raise TemplateError(f"{name}: {error}{_line(error)}") from error
        except Exception as error:
            # What an expression of the template does wrong (1 / 0, 'a' + 1, a range too long) surfaces as Python's error.
            raise TemplateError(f"{name}: {type(error).__name__}: {error}{_line(error)}") from error
    return "".join(pieces)


class _LimitError(Exception):
    """A limit was passed."""


class _Guards(NodeTransformer):
    """Puts a check of the clock into every loop, and of the size into every ``~``, which no hook of Jinja's reaches."""

    def visit_For(self, node: nodes.For, *args: Any, **kwargs: Any) -> nodes.For:
        self.generic_visit(node, *args, **kwargs)
        tick = nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None)
        node.body.insert(0, nodes.ExprStmt(tick).set_lineno(node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat, *args: Any, **kwargs: Any) -> nodes.Call:
        self.generic_visit(node, *args, **kwargs)
        return nodes.Call(nodes.EnvironmentAttribute("join_texts"), node.nodes, [], None, None, lineno=node.lineno)


class _Generation(Extension):
    """``{% generation %}...{% endgeneration %}``: marks the assistant's words for training; here it prints them."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares the attribute so.

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """``namespace(...)`` without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        # `self` is taken from `args`, so that a template may call namespace(self=...).
        self, *rest = args
        attributes = dict(*rest, **kwargs)
        for key in attributes:
            _check_public(key)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_public(name)
        super().__setitem__(name, value)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox of Jinja, with a limit on what its expressions may build."""

    intercepted_binops = frozenset(("+", "*", "**"))

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.filters["tojson"] = _tojson
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now, namespace=_Namespace)
        del self.globals["lipsum"]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        guarded: nodes.Template = _Guards().visit(super()._parse(source, name, filename))
        return guarded

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        match operator, left, right:
            case "+", str() | list() | tuple(), str() | list() | tuple():
                _check_size(len(left) + len(right))
            case "*", int(), str() | list() | tuple():
                _check_size(left * len(right))
            case "*", str() | list() | tuple(), int():
                _check_size(len(left) * right)
            case "*", int(), int():
                _check_size(left.bit_length() + right.bit_length())
            case "**", int(), int():
                _check_size(left.bit_length() * right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.tick()
        result = super().call(context, obj, *args, **kwargs)
        if isinstance(result, (str, list, tuple)):
            _check_size(len(result))
        return result

    def tick(self) -> None:
        """Stop the template when its time is up."""
        if time.monotonic() > _deadline.get():
            raise _LimitError("the template ran past its time limit; look for a loop without end")

    def join_texts(self, *parts: Any) -> str:
        """``a ~ b``: the texts of the operands, joined."""
        texts = [str(part) for part in parts]
        _check_size(sum(map(len, texts)))
        return "".join(texts)


@lru_cache(maxsize=64)
def _compile(source: str, name: str) -> Template:
    try:
        return _Environment().from_string(source)
    except TemplateSyntaxError as error:
        raise TemplateError(f"{name}, line {error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise TemplateError(f"{name}: nested too deeply to be compiled") from error


def _plain(value: object, where: str) -> object:
    """A copy made of exact JSON types: the methods of any richer object would be open to the template."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Mapping):
        return {_plain(key, f"{where} (a key)"): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return tuple(_plain(item, f"{where}[{i}]") for i, item in enumerate(value))
    # What is left of these types are subclasses, such as an enum of strings.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TemplateError(
        f"{where} must be a JSON value (None, bool, int, float, str, list, mapping), got {type(value).__name__}; convert it"
    )


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise JinjaError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _check_public(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise JinjaError(f"a namespace takes no name that begins with an underscore, got {name!r}")


def _check_size(size: int) -> None:
    if size > MAX_CHARS:
        raise _LimitError(f"the template builds a text, list or number of more than {MAX_CHARS} characters, items or bits")


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    token = _deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def _line(error: BaseException) -> str:
    """`` (line N)``, where the traceback passes through the template."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f" (line {line})"
