"""`gamut chat`: a conversation in the terminal, or one answer for each line of standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ContextOverflow, TokenizerError, UsageError
from ..types import Message
from .loading import AllowPickle, Device, Dtype, ModelName
from .sampling import with_sampling

if TYPE_CHECKING:
    from ..models import LanguageModel


# A turn has one answer, and shows its text alone.
@with_sampling(without=("num_return_sequences", "logprobs"))
def chat(
    model: ModelName,
    system: Annotated[
        str | None, typer.Option(help="What the model is told before the first turn.", show_default=False)
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    allow_pickle: AllowPickle = False,
    *,
    sampling: Mapping[str, Any],
) -> None:
    """Talk with a model in the terminal.

    Ctrl-C stops an answer, Ctrl-D ends the conversation. Off a terminal every line of standard input gets its answer.
    """
    from ..models import load

    options = {**sampling, "num_return_sequences": 1}
    history = [] if system is None else [Message("system", system)]
    with closing(load(model, device, dtype, allow_pickle=allow_pickle)) as lm:
        _rehearse(lm, history, options)
        for question in _questions():
            turn = Message("user", question)
            try:
                answer = _answer(lm, [*history, turn], options)
            except ContextOverflow as error:
                print(f"error: {error}\nthis turn was taken back; ask something shorter, or start again", file=sys.stderr)
                continue
            history += [turn, Message("assistant", answer)]


def _rehearse(lm: LanguageModel, history: list[Message], options: Mapping[str, Any]) -> None:
    """Prepare a first turn, so that whatever would make every turn fail does so before the first prompt.

    Raises:
        TokenizerError: the model has no tokenizer.
        TemplateError: there is no chat template, or it refuses a system message.
        OptionError: the options do not go together.
        ContextOverflow: no question fits.
    """
    from ..models.prompts import build_sequence, prompt_ids, resolve_sampling

    if lm.tokenizer is None:
        raise TokenizerError("this model has no tokenizer, so it cannot chat; put a tokenizer.json into its directory")
    ids = prompt_ids(lm.tokenizer, [*history, Message("user", "?")])
    build_sequence(ids, resolve_sampling(options, lm.defaults), lm.config, lm.defaults, lm.tokenizer)


def _questions() -> Iterator[str]:
    """What is typed, or comes on standard input, line by line; empty lines are passed over."""
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    while True:
        try:
            line = input("> " if terminal else "")
        except EOFError:
            if terminal:
                print()
            return
        except UnicodeDecodeError as error:
            raise UsageError("standard input must be UTF-8; convert it first, as with: iconv -f latin1 -t utf-8") from error
        if line.strip():
            yield line


def _answer(lm: LanguageModel, messages: list[Message], options: Mapping[str, Any]) -> str:
    """Print the answer as it comes and return it; where Ctrl-C stops it, what there is of it."""
    answer = ""
    try:
        for chunk in lm.stream(messages, **options):
            answer += chunk.text
            print(chunk.text, end="", flush=True)
    except KeyboardInterrupt:
        lm.close()
    print()
    return answer
