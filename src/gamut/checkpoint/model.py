"""Between a Hugging Face directory and a Transformer: build from its config, fill from its weights, write both back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, WeightsError, nearest
from ..nn import Transformer, TransformerConfig
from .config import ConfigReader
from .families import FAMILIES, Family
from .io import read_json, recover, write_json
from .names import Slot, slots
from .tensors import TensorFiles, write_tensors

_SHOWN = 10  # faults spelt out in one message


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a config.json says: its own fields, the family that reads them, and the Transformer that they describe."""

    raw: Mapping[str, Any]
    family: Family
    config: TransformerConfig

    @property
    def name(self) -> str:
        """The transformers class that the directory names."""
        return str((self.raw.get("architectures") or self.family.architectures)[0])


def read_architecture(directory: Path) -> Architecture:
    """Read a directory's config.json.

    Raises:
        NotFoundError: there is none.
        ConfigError: it is malformed, or asks for something that is not implemented.
    """
    recover(directory)
    path = directory / "config.json"
    return architecture(read_json(path), path)


def architecture(raw: Mapping[str, Any], path: Path = Path("config")) -> Architecture:
    """Understand the fields of a config.json; `path` is what errors call it.

    Raises:
        ConfigError: as for `read_architecture`.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        hint = nearest(model_type, FAMILIES) if isinstance(model_type, str) else ""
        known = ", ".join(sorted(FAMILIES))
        raise ConfigError(f"{path}: model_type {model_type!r} is not implemented{hint} (known: {known})")
    family = FAMILIES[model_type]
    named = raw.get("architectures")
    if named is not None and not (isinstance(named, list) and named and all(isinstance(name, str) for name in named)):
        raise ConfigError(f"{path}: architectures must be a list of class names, got {named!r}")
    if named and named[0] not in family.architectures:
        raise ConfigError(
            f"{path}: architecture {named[0]!r} is not implemented for model_type {model_type!r} "
            f"(known: {', '.join(family.architectures)})"
        )
    reader = ConfigReader(raw, path)
    config = family.read(reader)
    reader.finish()
    return Architecture(raw, family, config)


def build(arch: Architecture, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Transformer:
    """A Transformer with fresh weights."""
    transformer = Transformer(arch.config)
    transformer.initialise(seed)
    return transformer.to(dtype).eval()


def skeleton(arch: Architecture) -> Transformer:
    """A Transformer without weights: shapes alone, at no cost in memory."""
    with torch.device("meta"):
        return Transformer(arch.config)


def load_transformer(
    directory: Path,
    arch: Architecture,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    allow_pickle: bool = False,
) -> Transformer:
    """A Transformer with the weights of `directory`, in evaluation mode.

    Weights stay memory-mapped where neither type nor device nor layout changes.

    Args:
        dtype: of all weights; ``None``: the one that the directory names, else the one that its tables are stored in.

    Raises:
        NotFoundError: there are no weights.
        UnsafeFileError: there are only pickles, and `allow_pickle` is not set.
        WeightsError: a file is damaged, or a tensor is missing, unknown or of the wrong shape.
    """
    transformer = skeleton(arch)
    shapes = {name: tuple(parameter.shape) for name, parameter in transformer.named_parameters()}
    plan = slots(shapes, arch.family.rules(arch.config))
    with TensorFiles.open(directory, allow_pickle=allow_pickle) as files:
        stored = _stored_names(files, plan, arch.family)
        _check(files, directory, plan, stored, shapes, arch)
        target = dtype or _named_dtype(arch.raw) or files.dtype(stored[plan[0].theirs])
        for slot in plan:
            tensor = files.get(stored[slot.theirs]).to(device or "cpu", target)
            for name, part in zip(slot.ours, slot.split(tensor, shapes), strict=True):
                _assign(transformer, name, part.contiguous())
    return transformer.eval()


def write_transformer(directory: Path, transformer: Transformer, arch: Architecture, *, shard_bytes: int = 5 * 10**9) -> None:
    """Write config.json and the weights into an existing directory; `io.atomic_directory` makes it all or nothing."""
    parameters = dict(transformer.named_parameters())
    dtype = next(iter(parameters.values())).dtype
    raw = {key: value for key, value in arch.raw.items() if key != "torch_dtype"}
    raw |= {"architectures": [arch.name], "dtype": str(dtype).removeprefix("torch.")}
    write_json(directory / "config.json", raw)
    plan = slots(parameters, arch.family.rules(arch.config))
    tensors = {slot.theirs: slot.join([parameters[name].detach() for name in slot.ours]) for slot in plan}
    write_tensors(directory, tensors, shard_bytes=shard_bytes)


def _stored_names(files: TensorFiles, plan: list[Slot], family: Family) -> dict[str, str]:
    """The name under which each tensor is stored: without the prefix where the model was saved without its head."""
    bare = family.prefix and not any(name.startswith(family.prefix) for name in files.names())
    return {slot.theirs: slot.theirs.removeprefix(family.prefix) if bare else slot.theirs for slot in plan}


def _check(
    files: TensorFiles,
    directory: Path,
    plan: list[Slot],
    stored: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    arch: Architecture,
) -> None:
    """Refuse weights that are not exactly those of the config, all faults at once, before any is read."""
    faults = []
    for slot in plan:
        name, expected = stored[slot.theirs], slot.shape(shapes)
        if name not in files:
            faults.append(f"{name}: missing; expected shape {list(expected)}")
        elif files.shape(name) != expected:
            got = list(files.shape(name))
            faults.append(f"{name} in {files.file(name).name}: shape {got}, expected {list(expected)} by config.json")
        elif not files.dtype(name).is_floating_point:
            faults.append(f"{name} in {files.file(name).name}: dtype {files.dtype(name)}, expected a floating-point one")
    known, family = set(stored.values()), arch.family
    for name in files.names():
        if name in known or any(re.fullmatch(family.ignored, n) for n in (name, family.prefix + name)):
            continue
        where, got = f"{name} in {files.file(name).name}", list(files.shape(name))
        if not re.fullmatch(family.copies, name):
            faults.append(f"{where}: unknown, of shape {got}; {arch.name} has no such weight")
        elif not _repeats_the_table(files, name, plan, stored):
            faults.append(f"{where}: differs from the token embedding, to which config.json ties it (tie_word_embeddings)")
    if faults:
        more = f"\n  ... and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise WeightsError(
            f"{directory}: the weights do not fit config.json:\n  "
            + "\n  ".join(faults[:_SHOWN])
            + more
            + "\nFetch or save the model again, or mend config.json if it belongs to another model"
        )


def _repeats_the_table(files: TensorFiles, name: str, plan: list[Slot], stored: Mapping[str, str]) -> bool:
    """Whether a tensor equals the token embedding that becomes logits."""
    tables = {slot.ours[0]: stored[slot.theirs] for slot in plan if slot.ours[0].endswith("embeddings.tokens.weight")}
    table = tables.get("decoder.embeddings.tokens.weight") or tables["encoder.embeddings.tokens.weight"]
    return table in files and torch.equal(files.get(name), files.get(table))


def _named_dtype(raw: Mapping[str, Any]) -> torch.dtype | None:
    name = raw.get("dtype") or raw.get("torch_dtype")
    dtype = getattr(torch, str(name).removeprefix("torch."), None) if name else None
    return dtype if isinstance(dtype, torch.dtype) else None


def _assign(transformer: Transformer, name: str, tensor: Tensor) -> None:
    module, _, leaf = name.rpartition(".")
    transformer.get_submodule(module)._parameters[leaf] = nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
