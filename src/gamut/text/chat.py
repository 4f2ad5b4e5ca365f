"""Messages to text, and to ids: with the chat template that travels inside the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .. import sandbox
from ..errors import TemplateError
from ..types import Message
from .tokenizer import TEMPLATE_FILE, Tokenizer

AnyMessage = Message | Mapping[str, Any]
"""One turn: a `Message`, or a mapping with whatever fields the template reads beside role and content."""


def render(
    template: str,
    messages: Sequence[AnyMessage],
    *,
    add_generation_prompt: bool = True,
    bos_token: str | None = None,
    eos_token: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **extra: Any,
) -> str:
    """Write a chat as the one text that a model was trained to read.

    Equal to the text of `transformers`' ``apply_chat_template(tokenize=False)``.

    Args:
        template: the Jinja chat template.
        messages: the chat, oldest turn first. Fields of a mapping that are None are taken as absent.
        add_generation_prompt: end with the words that begin the assistant's next turn.
        bos_token: the token that begins a sequence, for templates that write it.
        eos_token: the token that ends one.
        tools: JSON schemas of the functions that the model may call.
        **extra: further variables of the template.

    Raises:
        TemplateError: when there is no message, or the template is wrong, refuses the messages, or runs away.
    """
    if not messages:
        raise TemplateError("a chat must hold at least one message, got none")
    variables = {
        "messages": [_fields(message) for message in messages],
        "tools": tools,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        **{name: token for name, token in (("bos_token", bos_token), ("eos_token", eos_token)) if token is not None},
        **extra,
    }
    return sandbox.render(template, variables, name="the chat template")


def chat_ids(
    tokenizer: Tokenizer,
    messages: Sequence[AnyMessage],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    **extra: Any,
) -> list[int]:
    """The ids of a chat, as ``apply_chat_template(tokenize=True, add_generation_prompt=True)`` of `transformers` gives them.

    The template writes every special token itself, so the tokenizer adds none: there is no second beginning of sequence.

    Raises:
        TemplateError: as for `render`, and when the tokenizer has no chat template.
    """
    if tokenizer.chat_template is None:
        raise TemplateError(
            f"this tokenizer has no chat template, so it cannot tell how a chat is written; put a Jinja template into "
            f"{TEMPLATE_FILE} beside tokenizer.json, or give the model a plain text"
        )
    variables = {**tokenizer.specials, **extra}
    text = render(tokenizer.chat_template, messages, add_generation_prompt=add_generation_prompt, tools=tools, **variables)
    return tokenizer.encode(text, add_special_tokens=False)


def _fields(message: AnyMessage) -> dict[str, Any]:
    if isinstance(message, Message):
        return {"role": message.role, "content": message.content}
    return {key: value for key, value in message.items() if value is not None}
