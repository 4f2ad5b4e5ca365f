"""Weight names and layouts map both ways: what `join` makes of ours, `split` gives back."""

from __future__ import annotations

import pytest
import torch

from gamut.checkpoint.names import Rule, slots

RULES = [
    Rule("h.{}.qkv", ("blocks.{}.q", "blocks.{}.k", "blocks.{}.v"), transposed=True),
    Rule("h.{}.out", "blocks.{}.out"),
    Rule("wpe.weight", "positions"),
    Rule("final_bias", "head.bias", row=True),
]
SHAPES = {
    "blocks.0.q.weight": (4, 6), "blocks.0.q.bias": (4,),
    "blocks.0.k.weight": (2, 6), "blocks.0.k.bias": (2,),
    "blocks.0.v.weight": (2, 6), "blocks.0.v.bias": (2,),
    "blocks.11.out.weight": (6, 4),
    "positions": (8, 6), "head.bias": (9,),
}  # fmt: skip


def test_every_parameter_finds_its_place_once():
    found = {slot.theirs: slot.ours for slot in slots(SHAPES, RULES)}
    assert found == {
        "h.0.qkv.weight": ("blocks.0.q.weight", "blocks.0.k.weight", "blocks.0.v.weight"),
        "h.0.qkv.bias": ("blocks.0.q.bias", "blocks.0.k.bias", "blocks.0.v.bias"),
        "h.11.out.weight": ("blocks.11.out.weight",),
        "wpe.weight": ("positions",),
        "final_bias": ("head.bias",),
    }


def test_shapes_as_they_are_stored():
    shapes = {slot.theirs: slot.shape(SHAPES) for slot in slots(SHAPES, RULES)}
    assert shapes == {
        "h.0.qkv.weight": (6, 8), "h.0.qkv.bias": (8,), "h.11.out.weight": (6, 4), "wpe.weight": (8, 6), "final_bias": (1, 9),
    }  # fmt: skip


def test_join_stores_what_split_reads():
    ours = {
        name: torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, (name, shape) in enumerate(SHAPES.items())
    }
    for slot in slots(SHAPES, RULES):
        theirs = slot.join([ours[name] for name in slot.ours])
        assert tuple(theirs.shape) == slot.shape(SHAPES)
        for name, part in zip(slot.ours, slot.split(theirs, SHAPES), strict=True):
            assert torch.equal(part, ours[name])


def test_the_joined_parts_lie_in_their_order():
    qkv, *_ = slots(SHAPES, RULES)
    stored = qkv.join([torch.full((rows, 6), float(rows + i)) for i, rows in enumerate((4, 2, 2))])
    assert stored[0].tolist() == [4.0] * 4 + [3.0] * 2 + [4.0] * 2


@pytest.mark.parametrize("parameter", ["blocks.0.gate.weight", "blocks.x.out.weight", "head.bias.weight.extra"])
def test_a_parameter_without_a_rule_is_a_fault_of_the_family(parameter):
    with pytest.raises(LookupError, match=f"no rule says where {parameter} lies"):
        slots([parameter], RULES)
