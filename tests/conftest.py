"""Makes every test repeatable: one thread, no network, no chance, whatever the machine. Lends tiny models, ours and others'."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import settings

# Read by torch, tokenizers and huggingface_hub when they are imported, so they stand before any test module.
os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

settings.register_profile("gamut", derandomize=True, deadline=None)
settings.load_profile("gamut")

LOCAL = {None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name that is not this machine's cannot be resolved."""
    resolve = socket.getaddrinfo

    def resolve_local(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in LOCAL:
            raise AssertionError(f"a test asked for the host {name!r}: no test uses the network")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_local)


TINY: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "llama": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 32,
    },
    "bert": {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 32,
    },
    "marian": {
        "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24,
        "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 20, "max_position_embeddings": 32,
        "eos_token_id": None, "pad_token_id": 39, "decoder_start_token_id": 39, "forced_eos_token_id": None,
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., dict[str, Any]]:
    """The fields of a tiny model's config.json, over a vocabulary of 40: ``tiny_config("gpt2", n_layer=1)``."""
    return lambda model_type, **changes: {"model_type": model_type, "vocab_size": 40} | TINY[model_type] | changes


@pytest.fixture(scope="session")
def spread() -> Callable[..., Any]:
    """Give a module of ours or of the reference weights that make every part matter: logits differ by several units,
    biases and norms are not trivial. ``spread(module, seed=0)`` returns the module, in evaluation mode."""
    import torch

    @torch.no_grad()
    def fill(module: Any, seed: int = 0) -> Any:
        generator = torch.Generator().manual_seed(seed)
        # The reference keeps fixed waves as parameters without a gradient.
        tensors = {name: each for name, each in module.named_parameters() if each.requires_grad}
        # Marian's output bias, a buffer in the reference.
        tensors |= {name: each for name, each in module.named_buffers() if name == "final_logits_bias"}
        for name, tensor in tensors.items():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim == 1 and name.endswith("weight"):
                tensor.copy_(1 + 0.3 * noise)  # a norm's
            else:
                is_table = tensor.ndim == 2 and any(word in name for word in ("embed", "shared", "wte", "wpe"))
                tensor.copy_(noise if is_table else 0.3 * noise)
        return module.eval()

    return fill


@pytest.fixture(scope="session")
def tiny_model(tiny_config: Callable[..., dict[str, Any]], spread: Callable[..., Any]) -> Callable[..., Any]:
    """A `LanguageModel` of `tiny_config` with `spread` weights: ``tiny_model("gpt2", seed=3, n_layer=1)``."""
    from gamut.models import LanguageModel

    def make(model_type: str, *, seed: int = 0, **changes: Any) -> LanguageModel:
        lm = LanguageModel.from_config(tiny_config(model_type, **changes))
        spread(lm.transformer, seed)
        return lm

    return make


@pytest.fixture(scope="session")
def reference(tiny_config: Callable[..., dict[str, Any]], spread: Callable[..., Any]) -> Callable[..., Any]:
    """The same in transformers, with the attention that can show its weights: ``reference("gpt2", seed=3, n_layer=1)``."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    classes = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "bert": "BertForMaskedLM", "marian": "MarianMTModel"}

    def make(model_type: str, *, seed: int = 0, **changes: Any) -> Any:
        fields = tiny_config(model_type, **changes)
        config = transformers.AutoConfig.for_model(fields.pop("model_type"), **fields)
        config._attn_implementation = "eager"
        return spread(getattr(transformers, classes[model_type])(config), seed)

    return make


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """What we load of what transformers saves: ``ours(reference("gpt2"))``."""
    import gamut

    def load(model: Any, **options: Any) -> gamut.LanguageModel:
        with TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as directory:
            model.save_pretrained(directory)
            return gamut.load(directory, device="cpu", **options)

    return load
