"""Decoding and prefill against `transformers.generate` on the same random weights, interleaved in one run.

    python benchmarks/decoding.py [--models gpt2-124m llama-110m llama-10m] [--rounds 5] [--threads 2]

Prints tokens per second, the ratio to transformers (above 1: gamut is faster), and for decoding the bound that the
memory's bandwidth sets: measured bytes per second of reading one large matrix, over the bytes of weights and cache that
one step must read. Greedy; every figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

import gamut

MODELS: dict[str, Any] = {
    "gpt2-124m": lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config()),
    "llama-110m": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=32000,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=12,
            num_attention_heads=12,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
    ),
    "llama-10m": lambda: transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=8192,
            hidden_size=256,
            intermediate_size=688,
            num_hidden_layers=10,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
        )
    ),
}
PROMPT, NEW, PREFILL = 32, 64, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    bandwidth = memory_bandwidth()
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, torch {torch.__version__}", end=", ")
    print(f"transformers {transformers.__version__}; memory reads {bandwidth / 1e9:.1f} GB/s")
    print(f"{'model':11} {'dtype':9} {'what':12} {'gamut':>9} {'transformers':>12} {'ratio':>6} {'bound':>9} {'of bound':>8}")
    for name in args.models:
        for dtype in args.dtypes:
            compare(name, dtype, args.batches, args.rounds, bandwidth)


def compare(name: str, dtype: str, batches: list[int], rounds: int, bandwidth: float) -> None:
    torch.manual_seed(0)
    peer = MODELS[name]().to(getattr(torch, dtype)).eval()
    peer.generation_config.eos_token_id = None
    peer.generation_config.pad_token_id = 0
    with tempfile.TemporaryDirectory() as directory:
        peer.save_pretrained(directory)
        ours = gamut.load(directory)
    for batch in batches:
        ids = torch.randint(5, 5000, (batch, PROMPT))
        mask = torch.ones_like(ids)
        seconds = interleaved(
            lambda ids=ids: ours.generate_ids(ids, max_new_tokens=NEW),
            lambda ids=ids, mask=mask: peer.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False),
            rounds,
        )
        step_bytes = weights_read(ours) + batch * cache_read(ours)
        row(name, dtype, f"decode b{batch}", batch * NEW, seconds, bound=batch * bandwidth / step_bytes)
    ids = torch.randint(5, 5000, (1, PREFILL))
    mask = torch.ones_like(ids)
    seconds = interleaved(
        lambda: ours.generate_ids(ids, max_new_tokens=1),
        lambda: peer.generate(ids, attention_mask=mask, max_new_tokens=1, do_sample=False),
        rounds,
    )
    row(name, dtype, f"prefill {PREFILL}", PREFILL, seconds, bound=None)
    ours.close()


def interleaved(ours: Callable[[], Any], peer: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Median seconds of each, run in turn after one warm-up."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for call, found in zip((ours, peer), times, strict=True):
            start = time.perf_counter()
            call()
            if turn:
                found.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def row(name: str, dtype: str, what: str, tokens: int, seconds: tuple[float, float], bound: float | None) -> None:
    ours, peer = tokens / seconds[0], tokens / seconds[1]
    limit = f"{bound:9.0f} {ours / bound:8.0%}" if bound else f"{'':9} {'':8}"
    print(f"{name:11} {dtype:9} {what:12} {ours:9.0f} {peer:12.0f} {ours / peer:6.2f} {limit}", flush=True)


def weights_read(lm: gamut.LanguageModel) -> int:
    """Bytes of weights that one step reads: all but the rows of an embedding that is not also the output matrix."""
    total = sum(p.numel() * p.element_size() for p in lm.transformer.parameters())
    stack = lm.transformer.decoder
    assert stack is not None
    unread = 0
    if not lm.config.head.tied:
        unread += stack.embeddings.tokens.weight.numel() * stack.embeddings.tokens.weight.element_size()
    positions = getattr(stack.embeddings.positions, "weight", None)
    if positions is not None:
        unread += positions.numel() * positions.element_size()
    return total - unread


def cache_read(lm: gamut.LanguageModel) -> float:
    """Bytes of one row's cache that an average step reads."""
    decoder = lm.config.decoder
    assert decoder is not None
    size = next(lm.transformer.parameters()).element_size()
    return 2 * decoder.layers * decoder.attention.kv_heads * decoder.attention.head_dim * size * (PROMPT + NEW / 2)


def memory_bandwidth() -> float:
    """Bytes per second at which a matrix too large for the caches of a core is read, best of 10."""
    matrix, vector = torch.ones(16384, 8192), torch.ones(8192)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        torch.mv(matrix, vector)
        times.append(time.perf_counter() - start)
    return matrix.numel() * matrix.element_size() / min(times)


if __name__ == "__main__":
    main()
