"""`gamut generate`: go on from a text, streamed as it comes, or as one JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..errors import UsageError
from .loading import AllowPickle, Device, Dtype, ModelName
from .sampling import with_sampling
from .standard_input import read_text


@with_sampling()
def generate(
    model: ModelName,
    text: Annotated[str, typer.Argument(help="The text to go on from; - reads standard input, less one final newline.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    allow_pickle: AllowPickle = False,
    *,
    sampling: Mapping[str, Any],
) -> None:
    """Continue a text with a model.

    The continuation is printed as it comes. Several of them (--num-return-sequences) come when all are done, with an empty
    line between them. What is not given here is as the model's generation_config.json says.
    """
    if "logprobs" in sampling and not as_json:
        raise UsageError("--logprobs shows in the JSON output alone; add --json, or leave it out")
    prompt = _standard_input() if text == "-" else text
    from ..models import load
    from ..models.prompts import resolve_sampling

    with closing(load(model, device, dtype, allow_pickle=allow_pickle)) as lm:
        if as_json:
            completion = lm.generate(prompt, **sampling)
            typer.echo(json.dumps({"model": model, "prompt": prompt, **asdict(completion)}, ensure_ascii=False))
        elif (resolve_sampling(sampling, lm.defaults).num_return_sequences or 1) > 1:
            completion = lm.generate(prompt, **sampling)
            typer.echo("\n\n".join(each.text for each in (completion, *completion.alternatives)))
        else:
            for chunk in lm.stream(prompt, **sampling):
                print(chunk.text, end="", flush=True)
            print()


def _standard_input() -> str:
    text = read_text().removesuffix("\n").removesuffix("\r")
    if not text:
        raise UsageError("expected the text to go on from on standard input, got nothing; give it in place of -, or pipe it in")
    return text
