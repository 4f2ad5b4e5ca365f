"""From text to text in one sitting: a tokenizer, a chat template and a small LLaMA, made on the spot.

    python examples/first_model.py [--out DIRECTORY]

Every step prints what it shows. The weights are fresh, so the model knows nothing yet: what it says is noise.

B: batch, T: tokens, V: vocabulary, L: layers, H: heads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import gamut
from gamut.text import train

SENTENCES = (
    "the river carries the old boat down to the sea",
    "a small boat waits at the river until the morning",
    "in the morning the sea is calm and the boat is ready",
    "the old captain reads a map and looks at the sea",
    "every river finds its own way to the sea",
)
TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }} </s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXT = "the old boat is ready"


def make() -> gamut.LanguageModel:
    """A tokenizer of whole words, and a LLaMA of two layers with fresh weights."""
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = train(SENTENCES, "word", 100, extra_special_tokens=roles).with_chat_template(TEMPLATE)
    shape = {
        "model_type": "llama",
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "eos_token_id": tokenizer.eos_id,
    }
    return gamut.LanguageModel.from_config(shape, tokenizer, seed=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/first_model"), help="where the model is written")
    out: Path = parser.parse_args().out

    print("1. A model is a directory: config.json, model.safetensors, tokenizer.json. This one is new, its weights are random.")
    make().save(out)
    print(f"   {out}: {', '.join(sorted(file.name for file in out.iterdir()))}")

    print("2. It is loaded by its name, as any Hugging Face directory is.")
    lm = gamut.load(str(out), device="cpu")
    tokenizer = lm.tokenizer
    assert tokenizer is not None
    print(f"   {sum(weights.numel() for weights in lm.transformer.parameters()):,} parameters, {tokenizer.vocab_size} tokens")

    print("3. The tokenizer cuts a text into tokens, and each token has an id.")
    pieces = tokenizer.pieces(TEXT)
    print("   " + "  ".join(f"{piece.text}={piece.id}" for piece in pieces))

    print("4. From the ids the Transformer computes how probable each token is to come next. Untrained, it hardly prefers any.")
    logits_BTV = lm.logits(torch.tensor([[piece.id for piece in pieces]]))
    best = logits_BTV[0, -1].softmax(-1).topk(5)
    listed = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    print("   " + "  ".join(f"{tokenizer.token(token)} {probability:.1%}" for token, probability in listed))

    print("5. Drawing one token after another gives a text, which is streamed as it comes. From untrained weights it is noise.")
    print(f"   {TEXT} ... ", end="")
    for chunk in lm.stream(TEXT, temperature=1.0, seed=0, max_new_tokens=16):
        print(chunk.text, end="", flush=True)
    print()

    print("6. A chat is a text too: the template that travels with the model writes it. The answer is as much noise.")
    question = gamut.Message("user", "the captain looks at the map")
    print(f"   {question.content} -> {lm.generate([question], temperature=1.0, seed=0, max_new_tokens=8).text}")

    print("7. Attention: how much each position looks at each earlier one, as [layers, heads, queries, keys].")
    attention_LHTT = lm.attention(TEXT)["decoder"]
    looks = "  ".join(f"{weight:.2f}" for weight in attention_LHTT[0, 0, -1].tolist())
    print(f"   {list(attention_LHTT.shape)}; from the last word, in the first head of the first layer: {looks}")

    lm.close()
    print(f'Go on with: gamut generate {out} "{TEXT}" --max-new-tokens 16')


if __name__ == "__main__":
    main()
