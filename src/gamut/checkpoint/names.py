"""How a family's weight names map onto ours, both ways, with the few ways in which they are laid out differently."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One of theirs holds one or several of ours, for every layer where the names have ``{}``.

    A name is that of a module, whose weight and bias keep their suffix, or of one parameter.
    """

    theirs: str
    ours: str | tuple[str, ...]
    """Several are joined along their first dimension."""
    transposed: bool = False
    """Matrices are stored as [in, out]."""
    row: bool = False
    """Vectors are stored as [1, n]."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of theirs and those of ours that it holds."""

    theirs: str
    ours: tuple[str, ...]
    transposed: bool
    row: bool

    def shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """The shape that theirs must have, given ours."""
        first = shapes[self.ours[0]]
        joined = (sum(shapes[name][0] for name in self.ours), *first[1:])
        if self.row:
            return (1, *joined)
        return joined[::-1] if self.transposed and len(joined) == 2 else joined

    def split(self, tensor: Tensor, shapes: Mapping[str, Shape]) -> tuple[Tensor, ...]:
        """Ours, as views of theirs."""
        if self.row:
            tensor = tensor.squeeze(0)
        elif self.transposed and tensor.ndim == 2:
            tensor = tensor.t()
        parts: tuple[Tensor, ...] = tensor.split([shapes[name][0] for name in self.ours])
        return parts

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Theirs, from ours; a view where nothing needs joining."""
        joined = tensors[0] if len(tensors) == 1 else torch.cat(tuple(tensors))
        if self.row:
            return joined.unsqueeze(0)
        return joined.t() if self.transposed and joined.ndim == 2 else joined


def slots(parameters: Iterable[str], rules: Sequence[Rule]) -> list[Slot]:
    """Where each of our parameters lies in a checkpoint.

    Raises:
        LookupError: no rule covers a parameter; the family's names are incomplete.
    """
    found: dict[str, Slot] = {}
    for parameter in parameters:
        rule, layer, suffix = _match(parameter, rules)
        theirs = rule.theirs.replace("{}", layer) + suffix
        parts = (rule.ours,) if isinstance(rule.ours, str) else rule.ours
        ours = tuple(part.replace("{}", layer) + suffix for part in parts)
        found.setdefault(theirs, Slot(theirs, ours, rule.transposed, rule.row))
    return list(found.values())


def _match(parameter: str, rules: Sequence[Rule]) -> tuple[Rule, str, str]:
    for rule in rules:
        for part in (rule.ours,) if isinstance(rule.ours, str) else rule.ours:
            pattern = re.escape(part).replace(r"\{\}", r"(?P<layer>\d+)") + r"(?P<suffix>\.weight|\.bias)?"
            if match := re.fullmatch(pattern, parameter):
                return rule, match.groupdict().get("layer") or "", match["suffix"] or ""
    raise LookupError(f"no rule says where {parameter} lies in the checkpoint")
