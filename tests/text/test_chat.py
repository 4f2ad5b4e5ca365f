"""A chat is written as its template says, and everything that cannot be written so is refused."""

from __future__ import annotations

import pytest

from gamut.errors import TemplateError
from gamut.text import Tokenizer, chat_ids, render, train
from gamut.types import Message

TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('no role ' ~ message.role) }}{% endif %}"
    "<|{{ message.role }}|>{{ message.content }}{{ eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT = [Message("system", "Be brief."), Message("user", "Hi & <bye>")]


@pytest.fixture(scope="module")
def toker() -> Tokenizer:
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    return train(["Be brief. Hi there"], "bpe", 300, extra_special_tokens=roles).with_chat_template(TEMPLATE)


def test_messages_are_written_as_the_template_says() -> None:
    text = render(TEMPLATE, CHAT, bos_token="<s>", eos_token="</s>")
    assert text == "<s><|system|>Be brief.</s><|user|>Hi & <bye></s><|assistant|>"
    assert render(TEMPLATE, CHAT, add_generation_prompt=False, bos_token="<s>", eos_token="</s>") == text.removesuffix(
        "<|assistant|>"
    )


def test_mappings_are_messages_too() -> None:
    mappings = [{"role": message.role, "content": message.content} for message in CHAT]
    assert render(TEMPLATE, mappings) == render(TEMPLATE, CHAT)


def test_a_field_that_is_none_is_absent() -> None:
    template = "{% for m in messages %}{{ 'calls' if m.tool_calls is defined else m.content }}{% endfor %}"
    assert render(template, [{"role": "user", "content": "text", "tool_calls": None}]) == "text"


def test_a_token_that_the_model_lacks_is_written_as_nothing() -> None:
    assert render("[{{ bos_token }}{{ eos_token }}]", CHAT) == "[]"


def test_tools_and_further_variables_reach_the_template() -> None:
    template = "{{ tools[0].name }} {{ enable_thinking }} {{ tools | tojson }}"
    text = render(template, CHAT, tools=[{"name": "clock"}], enable_thinking=False)
    assert text == 'clock False [{"name": "clock"}]'
    assert render("{{ tools is none }}", CHAT) == "True"


def test_ids_have_one_beginning_of_sequence(toker: Tokenizer) -> None:
    ids = chat_ids(toker, CHAT)
    assert ids.count(toker.bos_id) == 1
    assert ids[0] == toker.bos_id
    assert ids[-1] == toker.id("<|assistant|>")
    assert toker.decode(ids, skip_special_tokens=False) == render(TEMPLATE, CHAT, bos_token="<s>", eos_token="</s>")


def test_ids_have_one_even_where_the_tokenizer_adds_its_own() -> None:
    bert = train(["Be brief"], "wordpiece", 60).with_chat_template("{{ cls_token }}{{ messages[0].content }}{{ sep_token }}")
    assert [bert.token(id) for id in chat_ids(bert, [Message("user", "Be")])] == ["[CLS]", "Be", "[SEP]"]


def test_a_missing_template_is_an_error_that_says_where_to_put_one() -> None:
    bare = train(["Be brief"], "word", 60)
    with pytest.raises(TemplateError, match=r"has no chat template.*chat_template\.jinja beside tokenizer\.json"):
        chat_ids(bare, CHAT)


def test_an_empty_chat_is_refused() -> None:
    with pytest.raises(TemplateError, match="at least one message, got none"):
        render(TEMPLATE, [])


def test_faults_of_the_template_are_template_errors() -> None:
    with pytest.raises(TemplateError, match=r"^the chat template: no role tool \(line 1\)$"):
        render(TEMPLATE, [Message("tool", "12:00")])
    with pytest.raises(TemplateError, match=r"^the chat template, line 2: "):
        render("a\n{% endfor %}", CHAT)
    with pytest.raises(TemplateError, match="'dict object' has no attribute 'text'"):
        render("{{ messages[0].text.strip() }}", CHAT)
    with pytest.raises(TemplateError, match=r"messages\[0\]\.content must be a JSON value .*, got bytes"):
        render(TEMPLATE, [{"role": "user", "content": b"hi"}])
