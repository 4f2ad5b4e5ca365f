"""Decoding and prefill against `transformers.generate` on the same random weights, interleaved in one run.

    python benchmarks/decoding.py [--models gpt2-124m llama-110m llama-10m] [--rounds 5] [--threads 2]

Each contender has a process of its own, so that neither's worker threads disturb the other, and they take turns.

Prints tokens per second, the ratio to transformers (above 1: gamut is faster), and for decoding the bound that the
memory's bandwidth sets: measured bytes per second of reading one large matrix, over the bytes of weights and cache that
one step must read. Greedy; every figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
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
    quiet()
    bandwidth = memory_bandwidth()
    print(f"{platform.processor() or platform.machine()}, {args.threads} threads, torch {torch.__version__}", end=", ")
    print(f"transformers {transformers.__version__}; memory reads {bandwidth / 1e9:.1f} GB/s")
    print(f"{'model':11} {'dtype':9} {'what':12} {'gamut':>9} {'transformers':>12} {'ratio':>6} {'bound':>9} {'of bound':>8}")
    for name in args.models:
        for dtype in args.dtypes:
            compare(name, dtype, args.batches, args.rounds, args.threads, bandwidth)


class Contender:
    """One of the two, in a process of its own, which answers each call with the seconds that it took."""

    def __init__(self, loader: Callable[[str], Callable[..., Any]], directory: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, loader, directory, threads), daemon=True).start()

    def __call__(self, ids: torch.Tensor, new: int) -> float:
        self._pipe.send((ids.tolist(), new))
        return float(self._pipe.recv())

    def close(self) -> None:
        self._pipe.send(None)


def _serve(pipe: Any, loader: Callable[[str], Callable[..., Any]], directory: str, threads: int) -> None:
    torch.set_num_threads(threads)
    generate = loader(directory)
    while (call := pipe.recv()) is not None:
        ids, new = torch.tensor(call[0]), call[1]
        start = time.perf_counter()
        generate(ids, new)
        pipe.send(time.perf_counter() - start)


def load_gamut(directory: str) -> Callable[..., Any]:
    lm = gamut.load(directory)
    return lambda ids, new: lm.generate_ids(ids, max_new_tokens=new)


def load_transformers(directory: str) -> Callable[..., Any]:
    quiet()
    model = transformers.AutoModelForCausalLM.from_pretrained(directory).eval()
    model.generation_config.pad_token_id = 0
    return lambda ids, new: model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)


def quiet() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def compare(name: str, dtype: str, batches: list[int], rounds: int, threads: int, bandwidth: float) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().to(getattr(torch, dtype))
    model.config.eos_token_id = model.generation_config.eos_token_id = None  # neither may stop early
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        contenders = [Contender(load, directory, threads) for load in (load_gamut, load_transformers)]
        shape = gamut.load(directory)
        del model
        for batch in batches:
            seconds = interleaved(contenders, torch.randint(5, 5000, (batch, PROMPT)), NEW, rounds)
            step_bytes = weights_read(shape) + batch * cache_read(shape)
            row(name, dtype, f"decode b{batch}", batch * NEW, seconds, bound=batch * bandwidth / step_bytes)
        seconds = interleaved(contenders, torch.randint(5, 5000, (1, PREFILL)), 1, rounds)
        row(name, dtype, f"prefill {PREFILL}", PREFILL, seconds, bound=None)
        for contender in contenders:
            contender.close()


def interleaved(contenders: list[Contender], ids: torch.Tensor, new: int, rounds: int) -> list[float]:
    """Median seconds of each, run in turn after one warm-up."""
    times = [[contender(ids, new) for contender in contenders] for _ in range(rounds + 1)][1:]
    return [statistics.median(each) for each in zip(*times, strict=True)]


def row(name: str, dtype: str, what: str, tokens: int, seconds: list[float], bound: float | None) -> None:
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
