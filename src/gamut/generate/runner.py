"""Runs the model for a batch: the prompts once, then one token a row and step, over a cache that it keeps.

N: sequences, B: rows, T: tokens, S: encoder's tokens, V: vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids

import torch
from torch import Tensor

from ..nn import Cache, Transformer
from .sequence import Sequence


class Runner:
    """The model's side of the decoding loop."""

    def __init__(self, transformer: Transformer) -> None:
        self.transformer = transformer
        transformer.fuse()
        self._cache: Cache | None = None

    def prefill(self, sequences: list[Sequence]) -> Tensor:
        """Read the prompts of a new batch; logits of what follows each, float32 [N, V]."""
        model, config = self.transformer, self.transformer.config
        assert config.decoder is not None
        weight = next(model.parameters())
        self._cache = Cache(
            config.decoder,
            rows=len(sequences),
            capacity=max(each.decoder_length for each in sequences),
            dtype=weight.dtype,
            device=weight.device,
        )
        prompts_NS, mask_NS = _padded([each.prompt_ids for each in sequences], weight.device)
        if config.encoder is None:
            hidden = model.decode(prompts_NS, mask_NS, cache=self._cache)
        else:
            starts_NT, start_mask_NT = _padded([each.start_ids for each in sequences], weight.device)
            memory = model.encode(prompts_NS, mask_NS)
            hidden = model.decode(starts_NT, start_mask_NT, memory_BSW=memory, memory_mask_BS=mask_NS, cache=self._cache)
        last_N = torch.tensor(self._cache.lengths, device=hidden.device) - 1
        hidden = hidden[torch.arange(len(sequences), device=hidden.device), last_N]
        return model.logits(hidden).float()

    def step(self, parents: Ids[int], tokens: Ids[int]) -> Tensor:
        """Let row i go on from former row `parents[i]` with `tokens[i]`; logits of what follows, float32 [B, V]."""
        assert self._cache is not None
        self._cache.select(parents)
        ids_B1 = torch.tensor(tokens, device=next(self.transformer.parameters()).device)[:, None]
        hidden_B1W = self.transformer.decode(ids_B1, cache=self._cache)
        return self.transformer.logits(hidden_B1W[:, 0]).float()

    def release(self) -> None:
        """Let go of the batch's memory."""
        self._cache = None


def _padded(rows: Ids[Ids[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Rows of ids padded on the right to one length, and the mask of what is real; ``None`` where all are equally long."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    if all(len(row) == longest for row in rows):
        return ids, None
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, torch.arange(longest, device=device) < lengths[:, None]
