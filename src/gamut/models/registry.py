"""From a model's name to a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoint import resolve
from ..device import pick_device, pick_dtype
from .local import LanguageModel

if TYPE_CHECKING:
    import torch


def load(
    ref: str | Path, device: str | None = None, dtype: str | torch.dtype | None = None, *, allow_pickle: bool = False
) -> LanguageModel:
    """Load a model by its name: a Hugging Face directory, or ``hf:org/name[@revision]``.

    Args:
        ref: a directory's path, or ``hf:org/name[@revision]``.
        device: "cpu", "cuda", "cuda:N" or "mps"; ``None``: the best there is.
        dtype: "float32", "bfloat16", "float16" or torch's own; ``None``: what the directory is stored in.
        allow_pickle: read pytorch_model.bin where there is nothing safer.

    Raises:
        NotFoundError: there is no such model.
        CheckpointError: its directory cannot be read.
        MissingError: there is no such device.
    """
    return LanguageModel.from_directory(
        resolve(str(ref), allow_pickle=allow_pickle),
        device=pick_device(device),
        dtype=None if dtype is None else pick_dtype(dtype),
        allow_pickle=allow_pickle,
    )
