"""The cache gives every row back what it put in, whatever its neighbours do and however rows are picked."""

from __future__ import annotations

import pytest
import torch

from gamut.checkpoint import architecture
from gamut.nn import Cache
from gamut.nn.cache import LayerCache, cache_bytes_per_token

CPU = torch.device("cpu")


@pytest.fixture
def cache(tiny_config):
    def make(rows: int, capacity: int = 8, model_type: str = "llama") -> Cache:
        config = architecture(tiny_config(model_type)).config.decoder
        return Cache(config, rows=rows, capacity=capacity, dtype=torch.float32, device=CPU)

    return make


def put(cache: Cache, values: list[list[float]], counts: list[int]) -> list[list[float]]:
    """Write these keys (their values negated); what each row then holds, by its keys' first number."""
    T = len(values[0])
    new = torch.tensor(values, dtype=torch.float32)[:, None, :, None].expand(-1, 2, -1, 4)
    _, places, used = cache.places(counts, T, CPU)
    k, v = cache.layers[0].append(new, -new, places, used)
    assert k.shape == v.shape == (len(values), 2, used, 4)
    assert torch.equal(k, -v)
    cache.advance(counts)
    return [row[0, :length, 0].tolist() for row, length in zip(k, cache.lengths, strict=True)]


def test_even_rows(cache):
    held = cache(2)
    assert put(held, [[1, 2], [5, 6]], [2, 2]) == [[1, 2], [5, 6]]
    assert put(held, [[3], [7]], [1, 1]) == [[1, 2, 3], [5, 6, 7]]
    assert held.lengths == [3, 3]


def test_uneven_rows_write_over_their_padding(cache):
    held = cache(2)
    assert put(held, [[1, 2, 3], [5, 0, 0]], [3, 1]) == [[1, 2, 3], [5]]
    assert put(held, [[4], [6]], [1, 1]) == [[1, 2, 3, 4], [5, 6]]
    positions, _, used = held.places([1, 1], 2, CPU)
    assert positions.tolist() == [[4, 5], [2, 3]]
    assert used == 6


def test_select_repeats_drops_and_reorders(cache):
    held = cache(3)
    put(held, [[1, 2, 3], [4, 0, 0], [6, 7, 0]], [3, 1, 2])
    held.select([2, 0, 2, 1])
    assert held.lengths == [2, 3, 2, 1]
    assert put(held, [[10], [11], [12], [13]], [1] * 4) == [[6, 7, 10], [1, 2, 3, 11], [6, 7, 12], [4, 13]]
    held.select([1])
    assert put(held, [[20]], [1]) == [[1, 2, 3, 11, 20]]
    held.select([0, 0])
    assert put(held, [[30], [31]], [1, 1]) == [[1, 2, 3, 11, 20, 30], [1, 2, 3, 11, 20, 31]]


def test_repeated_rows_do_not_share_memory(cache):
    held = cache(1)
    put(held, [[1]], [1])
    held.select([0, 0])
    assert put(held, [[2], [3]], [1, 1]) == [[1, 2], [1, 3]]


def test_selecting_all_rows_in_order_moves_nothing(cache):
    held = cache(2)
    put(held, [[1], [2]], [1, 1])
    before = held.layers[0].k_BKCD
    held.select([0, 1])
    assert held.layers[0].k_BKCD is before


def test_places_that_nobody_wrote_hold_zeros_not_what_the_memory_held_before(cache):
    # They are read, masked out, by rows that are shorter than their neighbours, and 0 times NaN is NaN.
    layer = cache(2).layers[0]
    assert not layer.k_BKCD.any()
    assert not layer.v_BKCD.any()
    layer.select(torch.tensor([0, 0, 1]), 4)
    assert layer.v_BKCD.shape[0] == 3
    assert not layer.v_BKCD.any()


def test_memory_moves_with_its_rows(cache):
    held = cache(2, model_type="marian")
    assert not held.has_memory
    memory = torch.arange(2.0)[:, None, None, None].expand(2, 4, 3, 4)
    held.cross[0] = (memory, -memory)
    held.memory_mask = torch.tensor([[True, False, True], [True, True, True]])[:, None, None]
    assert held.has_memory
    held.select([1, 0, 1])
    assert held.cross[0][0][:, 0, 0, 0].tolist() == [1, 0, 1]
    assert held.cross[0][1][:, 0, 0, 0].tolist() == [-1, 0, -1]
    assert held.memory_mask[:, 0, 0, 1].tolist() == [True, False, True]


def test_bytes_per_token(tiny_config):
    config = architecture(tiny_config("llama")).config.decoder
    assert config is not None
    # Keys and values, 2 layers, 2 key-value heads of size 4.
    assert cache_bytes_per_token(config, torch.bfloat16) == 2 * 2 * 2 * 4 * 2
    held = Cache(config, rows=3, capacity=5, dtype=torch.bfloat16, device=CPU)
    tensors = [tensor for layer in held.layers for tensor in (layer.k_BKCD, layer.v_BKCD)]
    assert sum(tensor.nbytes for tensor in tensors) == 3 * 5 * cache_bytes_per_token(config, torch.bfloat16)
    assert all(isinstance(layer, LayerCache) for layer in held.layers)
