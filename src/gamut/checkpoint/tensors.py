"""The weights of a Hugging Face directory as names and tensors: read without copying, written one tensor at a time.

The format: 8 bytes of header length (little-endian), a JSON header of name -> dtype, shape and offsets, then the raw numbers
(https://github.com/huggingface/safetensors). Large models are split into shards, and an index says which holds what.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import ConfigError, NotFoundError, UnsafeFileError, WeightsError
from .io import read_json, require_regular, write_json

_SAFE, _SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_METADATA = {"format": "pt"}  # transformers refuses a file that does not say this
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class _Entry:
    """Where one tensor is and what it looks like, known without reading it."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


class TensorFiles:
    """The tensors of a model directory, read-only, by name. Open it with `open`; use it as a context manager, or `close` it."""

    def __init__(self, entries: Mapping[str, _Entry], files: ExitStack) -> None:
        self._entries = entries
        self._files = files

    @classmethod
    def open(cls, directory: Path, *, allow_pickle: bool = False) -> TensorFiles:
        """Map the weight files of `directory` into memory and hold them against their index.

        model.safetensors comes before model.safetensors.index.json with its shards, and both before pytorch_model.bin. A pickle
        is read only with `allow_pickle`, and then by torch's reader that builds tensors and plain values alone.

        Raises:
            NotFoundError: the directory holds no weights in one of these files.
            WeightsError: a file is truncated, foreign or missing, or does not hold what the index says.
            UnsafeFileError: there is only a pickle, and `allow_pickle` is off; or the pickle holds more than tensors.
        """
        with ExitStack() as stack:
            if (directory / _SAFE).exists():
                entries = _open_safetensors(directory / _SAFE, stack)
            elif (directory / _SAFE_INDEX).exists():
                entries = _open_shards(directory / _SAFE_INDEX, lambda path: _open_safetensors(path, stack))
            elif not allow_pickle:
                raise _no_safe_weights(directory)
            elif (directory / _PICKLE).exists():
                entries = _open_pickle(directory / _PICKLE)
            elif (directory / _PICKLE_INDEX).exists():
                entries = _open_shards(directory / _PICKLE_INDEX, _open_pickle)
            else:
                raise _no_safe_weights(directory)
            files = stack.pop_all()
        return cls(entries, files)

    def names(self) -> list[str]:
        """Every tensor's name, sorted."""
        return sorted(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, without reading it."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """The tensor's dtype, without reading it."""
        return self._entry(name).dtype

    def file(self, name: str) -> Path:
        """The file that holds the tensor, for messages."""
        return self._entry(name).file

    def get(self, name: str) -> Tensor:
        """The tensor. Its memory is a private map of the file: clone it before changing it, or the next `get` sees the change.

        It stays valid after `close`.

        Raises:
            WeightsError: there is no such tensor.
        """
        return self._entry(name).read()

    def close(self) -> None:
        """Close the files; nothing more can be read."""
        self._entries = {}
        self._files.close()

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _entry(self, name: str) -> _Entry:
        try:
            return self._entries[name]
        except KeyError:
            held = f"{len(self._entries)} others" if self._entries else "none (the files are closed)"
            raise WeightsError(f"expected a tensor {name!r}, got {held}; names() lists what there is") from None


def write_tensors(
    directory: Path,
    tensors: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
    *,
    metadata: Mapping[str, str] = _METADATA,
    shard_bytes: int = 5 * 10**9,
) -> None:
    """Write `tensors` into `directory` as model.safetensors or, past `shard_bytes`, as shards with an index.

    The shards are cut as transformers cuts them: in the order given, a tensor above `shard_bytes` alone in its own. Every name
    gets its own bytes, also where tensors share memory; at most one tensor at a time is copied (moved from its device, made
    contiguous). The directory must not hold older weights: write inside `io.atomic_directory`, which sees to that.

    Raises:
        WeightsError: a name occurs twice, or a tensor cannot be stored (no data, or a dtype that safetensors lacks).
        OSError: the disk refused (`io.atomic_directory` turns it into a CheckpointError).
    """
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items() if isinstance(tensors, Mapping) else tensors:
        if name in named:
            raise WeightsError(f"expected each tensor once, got {name!r} twice; give each its own name")
        if tensor.device.type == "meta" or tensor.layout != torch.strided or tensor.dtype not in _DTYPE_NAMES:
            got = f"{tensor.dtype} with the layout {tensor.layout} on {tensor.device}"
            raise WeightsError(
                f"tensor {name!r}: expected dense data of a dtype that safetensors has, got {got}; convert it first"
            )
        named[name] = tensor
    shards = _cut(named, shard_bytes)
    if len(shards) == 1:
        _write_safetensors(directory / _SAFE, {name: named[name] for name in shards[0]}, metadata)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_safetensors(directory / file, {name: named[name] for name in shard}, metadata)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in named.values())
    write_json(directory / _SAFE_INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _cut(tensors: Mapping[str, Tensor], shard_bytes: int) -> list[list[str]]:
    """Names per shard. An oversized tensor does not end the shard that is being filled."""
    shards: list[list[str]] = []
    filling: list[str] = []
    room = shard_bytes
    for name, tensor in tensors.items():
        if tensor.nbytes > shard_bytes:
            shards.append([name])
            continue
        if tensor.nbytes > room:
            shards.append(filling)
            filling, room = [], shard_bytes
        filling.append(name)
        room -= tensor.nbytes
    return [*shards, filling] if filling or not shards else shards


def _write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    # Wide dtypes first, so that every tensor starts at a multiple of its item size and can be mapped in place.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": _DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, tensor in ordered:
            flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().view(-1)
            file.write(flat.view(torch.uint8).numpy().data)


def _open_shards(index: Path, open_file: Callable[[Path], dict[str, _Entry]]) -> dict[str, _Entry]:
    """The tensors of all shards, which must be those that the index lists and no others."""
    wanted = _read_index(index)
    entries: dict[str, _Entry] = {}
    for file, names in wanted.items():
        path = index.parent / file
        if not path.exists():
            raise WeightsError(
                f"{path}: no such file, but {index} says that it holds {len(names)} tensors, {min(names)!r} among them; "
                "copy or download the missing shard"
            )
        held = open_file(path)
        if missing := sorted(names - held.keys()):
            raise WeightsError(
                f"{path}: expected the tensor {missing[0]!r}, which {index.name} places there, got a file without it "
                f"({len(missing)} missing in all); copy or download the shards and the index of one model together"
            )
        if unlisted := sorted(held.keys() - names):
            raise WeightsError(
                f"{path}: expected the tensors that {index.name} lists for it, got {unlisted[0]!r} besides "
                f"({len(unlisted)} unlisted in all); copy or download the shards and the index of one model together"
            )
        entries |= held
    return entries


def _read_index(path: Path) -> dict[str, set[str]]:
    """Shard file -> the names of its tensors."""
    try:
        weight_map = read_json(path).get("weight_map")
    except ConfigError as error:
        raise WeightsError(str(error)) from error
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(file, str) for file in weight_map.values()):
        got = "nothing" if not weight_map else f"{str(weight_map)[:60]}"
        raise WeightsError(
            f'{path}: expected "weight_map" to be an object of tensor name -> file name, got {got}; download it again'
        )
    files: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        # An index from elsewhere must not make us read files elsewhere. Links are fine: the hub's cache consists of them.
        if re.search(r"[/\\:\0]", file) or file in ("", ".", ".."):
            raise WeightsError(
                f"{path}: expected the name of a file beside the index for tensor {name!r}, got {file!r}; "
                "refused, because it points elsewhere; put the shard into the directory and write its plain name"
            )
        files.setdefault(file, set()).add(name)
    return files


def _open_safetensors(path: Path, stack: ExitStack) -> dict[str, _Entry]:
    require_regular(path)
    try:
        opened: Any = stack.enter_context(safe_open(path, framework="pt"))
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: {_diagnose(path, error)}") from error
    entries = {}
    for name in opened.keys():  # noqa: SIM118  (safe_open is no mapping)
        view = opened.get_slice(name)
        if view.get_dtype() not in _DTYPES:
            raise WeightsError(
                f"{path}: tensor {name!r}: expected a dtype out of {', '.join(_DTYPES)}, got {view.get_dtype()}; "
                "convert the model to one of them"
            )
        shape, dtype = tuple(view.get_shape()), _DTYPES[view.get_dtype()]
        entries[name] = _Entry(path, shape, dtype, partial(opened.get_tensor, name))
    return entries


def _diagnose(path: Path, error: Exception) -> str:
    """What is wrong with a file that safetensors did not open, and the cure."""
    again = "copy or download it again"
    if isinstance(error, OSError):
        return f"expected a readable file, got: {error.strerror or error}; check what it is and who may read it"
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":
            return f"expected weights, got a Git LFS pointer of {size} bytes; run `git lfs pull` in {path.parent}"
        length = int.from_bytes(start, "little")
        if size < 8 or length > 100_000_000:  # the largest header that safetensors accepts
            return f"expected a safetensors file, got {size} bytes without its header; {again}"
        if 8 + length > size:
            return f"expected a header of {length} bytes, got a file of {size} bytes in all; it is truncated: {again}"
        try:
            header = json.loads(file.read(length))
            ends = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
            expected = 8 + length + max(ends.values(), default=0)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return f"expected a safetensors header, got {length} bytes of something else; {again}"
    if size < expected:
        cut = min((name for name, end in ends.items() if 8 + length + end > size), key=ends.__getitem__)
        return f"expected {expected} bytes, got {size}: it is truncated, tensor {cut!r} and what follows is cut off; {again}"
    return f"expected a safetensors file, got one whose header is wrong ({error}); {again}"


def _open_pickle(path: Path) -> dict[str, _Entry]:
    try:
        # Only the newer of torch's two formats, a zip archive, can be mapped into memory.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UnsafeFileError(
            f"{path}: expected tensors alone, got a pickle that torch refuses to read (code, or damage); "
            "download the model in safetensors format"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise WeightsError(
            f"{path}: expected a file that torch.save wrote, got {str(error)[:200]}; copy or download it again"
        ) from error
    if not isinstance(loaded, dict):
        raise WeightsError(
            f"{path}: expected a dictionary of tensors, got {type(loaded).__name__}; save the model's state_dict()"
        )
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path}: expected names and tensors, got {name!r}: {type(value).__name__}; save the state_dict() alone"
            )
    return {name: _loaded_entry(path, value) for name, value in loaded.items()}


def _loaded_entry(path: Path, value: Tensor) -> _Entry:
    return _Entry(path, tuple(value.shape), value.dtype, read=lambda: value)


def _no_safe_weights(directory: Path) -> NotFoundError | UnsafeFileError:
    """The error for a directory without safetensors: a pickle that is refused, or nothing at all."""
    pickles = [name for name in (_PICKLE, _PICKLE_INDEX) if (directory / name).exists()]
    if pickles:
        return UnsafeFileError(
            f"{directory / pickles[0]}: expected weights in safetensors format, got a pickle, whose reading can run code; "
            "download the model in safetensors format or, if you trust its maker, pass allow_pickle=True"
        )
    foreign = (".safetensors", ".bin", ".h5", ".msgpack", ".pt", ".gguf")
    there = sorted(path.name for path in directory.glob("*") if path.suffix in foreign)
    found = f"got {', '.join(there[:5])}" if there else "got none of them"
    return NotFoundError(
        f"{directory}: expected weights in {_SAFE} or {_SAFE_INDEX}, {found}; "
        "name a directory that save_pretrained wrote, or download the model again"
    )
