"""The special tokens that a directory does not write down because `transformers` knows them by the tokenizer's class.

GPT-2's own directory, for one, says nowhere that ``<|endoftext|>`` ends a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GPT2 = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")
_QWEN2 = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
_BERT = {
    role: f"[{role.removesuffix('_token').upper()}]"
    for role in ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
}
_LLAMA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
_ROBERTA = _LLAMA | {"sep_token": "</s>", "cls_token": "<s>", "pad_token": "<pad>", "mask_token": "<mask>"}
_T5 = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

_BY_CLASS: Mapping[str, Mapping[str, str]] = {
    "BartTokenizer": _ROBERTA,
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "GPT2Tokenizer": _GPT2,
    "LlamaTokenizer": _LLAMA,
    "Qwen2Tokenizer": _QWEN2,
    "RobertaTokenizer": _ROBERTA,
    "T5Tokenizer": _T5,
}
_CLASS_OF_MODEL: Mapping[str, str] = {
    "bart": "BartTokenizer",
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neo": "GPT2Tokenizer",
    "phi": "GPT2Tokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
}


def implied_roles(tokenizer_config: Mapping[str, Any], model_config: Mapping[str, Any]) -> Mapping[str, str]:
    """Special tokens by role, as the tokenizer's class has them where nothing else is written.

    Args:
        tokenizer_config: what tokenizer_config.json says.
        model_config: what the model's config.json says.
    """
    named = tokenizer_config.get("tokenizer_class") or model_config.get("tokenizer_class")
    name = named or _CLASS_OF_MODEL.get(model_config.get("model_type", ""), "")
    return _BY_CLASS.get(name.removesuffix("Fast"), {})
