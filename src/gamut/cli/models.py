"""`gamut models`: what a model is made of and how much memory it takes, without reading a weight."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import NotFoundError
from .loading import ModelName

if TYPE_CHECKING:
    from ..checkpoint import Architecture, GenerationDefaults
    from ..nn import StackConfig

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Show what a model is made of.")

# Values of the sampling options that leave plain greedy choice as it is.
_OFF: Mapping[str, float] = {
    "min_new_tokens": 0,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "temperature": 0,
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
    "typical_p": 1,
    "num_return_sequences": 1,
    "num_beams": 1,
}
# Options that act only where another one is on.
_NEEDS: Mapping[str, str] = {
    **dict.fromkeys(("top_k", "top_p", "min_p", "typical_p"), "temperature"),
    **dict.fromkeys(("length_penalty", "early_stopping"), "num_beams"),
}
# Fields of GenerationDefaults that say what the sequence's special tokens are, not how tokens are chosen.
_NOT_CHOICES = ("raw", "sampling", "bos_id", "eos_ids", "pad_id", "decoder_start_id", "path")


@app.callback()
def _models() -> None:
    """Keeps `show` a verb, where typer would make a lone command the noun itself."""


@app.command()
def show(
    model: ModelName,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a model is made of: parts, parameters, context, memory, tokenizer, generation defaults.

    Reads the configuration and the tokenizer alone, no weights.
    """
    from ..checkpoint import resolve

    facts = {"model": model, **describe(resolve(model))}
    if as_json:
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    rows = list(_rows(facts))
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        typer.echo(f"{name:<{width}}{value}")


def describe(directory: Path) -> dict[str, Any]:
    """What the files beside the weights say of a model, as JSON values; sizes in bytes.

    Raises:
        NotFoundError: there is no config.json.
        ConfigError: it is malformed, or asks for something that is not implemented.
        TokenizerError: the tokenizer's files cannot be read.
    """
    from ..checkpoint import read_architecture, read_generation, skeleton
    from ..nn.footprint import cache_bytes, parameters_by_part, weight_bytes

    arch = read_architecture(directory)
    config, transformer = arch.config, skeleton(arch)
    parts, per_token = parameters_by_part(transformer), cache_bytes(config)
    # The decoder keeps keys and values of its own tokens and, where there is an encoder, of each token of its output.
    held = sum(stack.context for stack in (config.encoder, config.decoder) if stack) if config.decoder else 0
    return {
        "architecture": arch.name,
        "family": arch.family.model_type,
        "kind": _kind(arch),
        "parameters": {"total": sum(parts.values()), "parts": parts},
        "width": config.width,
        "encoder": _stack(config.encoder),
        "decoder": _stack(config.decoder),
        "tied_embeddings": config.head.tied,
        "weight_bytes": weight_bytes(transformer),
        "cache_bytes_per_token": per_token,
        "cache_bytes_full_context": {precision: size * held for precision, size in per_token.items()},
        "tokenizer": _tokenizer(directory),
        "generation": beyond_greedy(read_generation(directory, arch.raw)),
    }


def beyond_greedy(defaults: GenerationDefaults) -> dict[str, Any]:
    """The generation defaults that change or limit what plain greedy choice would give, by name."""
    sampling = {name: value for name, value in asdict(defaults.sampling).items() if value not in (None, _OFF.get(name))}
    found = {name: value for name, value in sampling.items() if _NEEDS.get(name, name) in sampling}
    for field in fields(defaults):
        value = getattr(defaults, field.name)
        if field.name not in _NOT_CHOICES and value != field.default:
            found[field.name] = value
    return found


def _kind(arch: Architecture) -> str:
    if arch.config.encoder and arch.config.decoder:
        return "encoder-decoder"
    return "encoder-only" if arch.config.encoder else "decoder-only"


def _stack(stack: StackConfig | None) -> dict[str, int] | None:
    if stack is None:
        return None
    return {
        "layers": stack.layers,
        "heads": stack.attention.heads,
        "kv_heads": stack.attention.kv_heads,
        "head_size": stack.attention.head_dim,
        "feed_forward": stack.feed_forward.width,
        "context": stack.context,
        "vocabulary": stack.vocab_size,
    }


def _tokenizer(directory: Path) -> dict[str, Any] | None:
    from ..text import Tokenizer

    try:
        tokenizer = Tokenizer.load(directory)
    except NotFoundError:
        return None
    return {"tokens": tokenizer.vocab_size, "chat_template": tokenizer.chat_template is not None}


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The facts as lines of a name and a value."""
    yield "model", facts["model"]
    yield "architecture", f"{facts['architecture']} ({facts['family']}), {facts['kind']}"
    yield "parameters", f"{facts['parameters']['total']:,}"
    for part, count in facts["parameters"]["parts"].items():
        yield f"  {part}", f"{count:,}"
    yield "width", f"{facts['width']:,}"
    for name in ("encoder", "decoder"):
        for fact, value in (facts[name] or {}).items():
            yield f"{name} {fact.replace('_', ' ')}", f"{value:,}"
    yield "tied embeddings", "yes" if facts["tied_embeddings"] else "no"
    yield "memory of the weights", _at_each_precision(facts["weight_bytes"])
    if facts["decoder"]:
        yield "cache per token", _at_each_precision(facts["cache_bytes_per_token"])
        yield "cache, full context", _at_each_precision(facts["cache_bytes_full_context"])
    tokenizer = facts["tokenizer"]
    yield "tokenizer", f"{tokenizer['tokens']:,} tokens" if tokenizer else "none"
    yield "chat template", "yes" if tokenizer and tokenizer["chat_template"] else "none"
    if facts["decoder"]:
        generation = ", ".join(f"{name}={value}" for name, value in facts["generation"].items())
        yield "generation defaults", generation or "greedy"


def _at_each_precision(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{_size(count)} in {precision}" for precision, count in sizes.items())


def _size(count: int) -> str:
    value, units = float(count), iter(("KiB", "MiB", "GiB", "TiB"))
    unit = "B"
    while value >= 1024 and unit != "TiB":
        value, unit = value / 1024, next(units)
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
