"""Facts about the machine: on which device and in which dtype a model runs, and how much memory there is."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from .errors import MissingError, OptionError, nearest

if TYPE_CHECKING:
    import torch

_DEVICES = ("cpu", "cuda", "mps")
_DTYPES = {
    "float32": "float32",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "fp16": "float16",
}


def pick_device(name: str | None = None) -> torch.device:
    """The device to compute on: `name` ("cpu", "cuda", "cuda:1", "mps"), or without one CUDA, else MPS, else the CPU.

    Raises:
        MissingError: the named device is not in this machine.
        OptionError: there is no device of that name.
    """
    import torch

    cuda, mps = torch.cuda.device_count(), torch.backends.mps.is_available()
    if name is None:
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    match = re.fullmatch(r"(cpu|mps|cuda)(?::(\d+))?", name)
    if not match:
        raise OptionError(f"device must be cpu, cuda, cuda:N or mps, got {name!r}{nearest(name, _DEVICES)}")
    kind, index = match[1], int(match[2] or 0)
    count = {"cpu": 1, "cuda": cuda, "mps": int(mps)}[kind]
    if index >= count:
        found = f"{kind}:0 to {kind}:{count - 1}" if count else "none"
        cure = "use cpu" if not count else f"use {kind}:0"
        if kind == "cuda" and not count:
            cure += ", or install a GPU driver and a torch built for it (https://pytorch.org/get-started)"
        raise MissingError(f"device {name!r} is not available: expected a {kind} device {index}, found {found}; {cure}")
    return torch.device(name)


def pick_dtype(name: str | torch.dtype | None = None) -> torch.dtype:
    """The dtype of weights and computation: float32 (the default), bfloat16 or float16, by name or as torch's own.

    Raises:
        OptionError: anything else.
    """
    import torch

    if name is None:
        return torch.float32
    key = str(name).removeprefix("torch.") if isinstance(name, torch.dtype) else name
    if key not in _DTYPES:
        raise OptionError(f"dtype must be one of {', '.join(_DTYPES)}, got {key!r}{nearest(key, _DTYPES)}")
    dtype: torch.dtype = getattr(torch, _DTYPES[key])
    return dtype


def memory_total() -> int:
    """The machine's main memory in bytes."""
    return int(psutil.virtual_memory().total)


def memory_available() -> int:
    """Main memory in bytes that programs can still take without swapping."""
    return int(psutil.virtual_memory().available)


def threads() -> int:
    """How many threads torch computes with on the CPU (OMP_NUM_THREADS or torch.set_num_threads changes it)."""
    import torch

    return torch.get_num_threads()


def release_worker_threads() -> None:
    """Let go of the worker threads that OpenMP keeps for the calling thread; its next large operation makes them anew.

    GNU OpenMP gives every thread that computes a pool of workers of its own. Where the pools together are more than the
    cores, it lets workers sleep between operations instead of waiting awake, and each small operation pays for waking
    them: a decoding step of a 10M model takes three times as long. So whoever hands work to another thread and waits
    calls this first. Without GNU OpenMP it does nothing.
    """
    if (pause := _omp_pause()) is not None:
        pause(1)  # omp_pause_soft: OpenMP 5.0, section 3.6.1


@cache
def _omp_pause() -> Callable[[int], int] | None:
    """`omp_pause_resource_all` of the GNU OpenMP library that this process has loaded; ``None`` where there is none."""
    import ctypes

    maps = Path("/proc/self/maps")
    loaded = re.findall(r"/\S*libgomp[^/\s]*\.so\S*", maps.read_text()) if maps.exists() else []
    for library in loaded:
        found: Callable[[int], int] | None = getattr(ctypes.CDLL(library), "omp_pause_resource_all", None)
        if found is not None:
            return found
    return None
