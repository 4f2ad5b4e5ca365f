"""Read JSON with errors that name the line, and replace a model directory all at once or not at all.

A new state is written beside the old one and renamed over it, in steps of which each leaves something whole:

    .NAME.gamut-writing.*   being written; a kill leaves the old state
    .NAME.gamut-new         complete and on the disk; a kill leaves the old state, or `recover` brings in the new one
    .NAME.gamut-old         what NAME held before; a kill leaves the new state
"""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psutil

from ..errors import CheckpointError, ConfigError, NotFoundError

# Files that belong together: when a new state writes one of a group, what is left of the old state's group is stale.
_WEIGHTS = (
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
    "consolidated*.safetensors",
    "pytorch_model*.bin",
    "pytorch_model.bin.index.json",
    "tf_model*.h5",
    "flax_model*.msgpack",
)
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
)


_WINDOWS = os.name == "nt"
# EDQUOT, a quota that is used up, is missing on Windows.
_NO_SPACE = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it cannot be read, is not UTF-8, is not JSON or holds something else than an object.
    """
    require_regular(path)
    try:
        text = path.read_bytes().decode("utf-8")
        value = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{path}: no such file; check the directory's name, or write or download the model again") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: expected a readable file, got: {error.strerror}; check what it is and who may read it"
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        byte = error.object[error.start]
        raise ConfigError(f"{path}:{line}: expected UTF-8, got the byte 0x{byte:02x}; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}:{error.lineno}: expected JSON, got: {error.msg} (column {error.colno}); mend that line"
        ) from error
    except (RecursionError, ValueError):
        raise ConfigError(
            f"{path}: expected a JSON object, got one nested too deeply or a number too long to read; mend the file"
        ) from None
    if not isinstance(value, dict):
        kind = {list: "a list", str: "a string", bool: "a truth value", type(None): "null"}.get(type(value), "a number")
        raise ConfigError(f"{path}:1: expected a JSON object ({{...}}), got {kind}; write the fields inside braces")
    return value


def require_regular(path: Path) -> None:
    """Refuse a pipe or a device, whose reading might never end.

    Raises:
        ConfigError: `path` is one.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ConfigError(f"{path}: expected a file, got a pipe or a device; put the model's own file there")


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` in the layout of Hugging Face's own files: UTF-8, indented by two, keys sorted, a newline at the end."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield an empty directory to write into, which becomes `path` when the block ends without an error.

    An existing `path` is replaced where it is empty, holds a config.json, or holds nothing but tokenizer files. Its files that
    the block did not write are kept, except weights when the block wrote weights, and tokenizer files when it wrote those.
    After an error in the block, or a kill at any moment, the old state stands or the new one does (see `recover`).
    One process at a time may write to a `path`.

    Raises:
        CheckpointError: `path` is something that must not be replaced, or it cannot be written (no space, no permission).
    """
    path = Path(os.path.realpath(path))  # a link stays; what it points to is replaced
    _refuse_unless_replaceable(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path)
        _sweep(path)
        _refuse_unless_replaceable(path)  # again, for what `recover` may have brought back
        writing = path.parent / f"{_writing_prefix(path)}{os.getpid()}.{secrets.token_hex(4)}"
        writing.mkdir()
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield writing
    except OSError as error:
        # The block may also have failed at a file of its own elsewhere, which says nothing about `path`.
        if error.errno in _NO_SPACE or str(error.filename or "").startswith(str(writing)):
            raise _cannot_write(path, error) from error
        raise
    else:
        _finish(path, writing)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def recover(path: Path) -> None:
    """Put right what a kill inside `atomic_directory` left: where `path` is missing, bring in the state that is whole.

    Call it before reading `path`. Where nothing was interrupted it does nothing, at the cost of one look at the disk.
    """
    path = Path(os.path.realpath(path))
    if path.exists():
        return
    for state in _siblings(path):  # the new one first: it is complete, or it would not bear this name
        with suppress(OSError):  # not there, or a writer that still lives was faster
            state.rename(path)
            _sync_directory(path.parent)
            return


def _siblings(path: Path) -> tuple[Path, Path]:
    return path.parent / f".{path.name}.gamut-new", path.parent / f".{path.name}.gamut-old"


def _writing_prefix(path: Path) -> str:
    # The machine's name is in it because a process number says nothing about another machine on a shared disk.
    return f".{path.name}.gamut-writing.{platform.node()}."


def _finish(path: Path, writing: Path) -> None:
    """Put `writing` in the place of `path`; after an error `path` is as it was."""
    new, old = _siblings(path)
    try:
        _sync_tree(writing)
        if path.exists():
            _carry_over(path, writing, _stale_groups(writing))
        writing.rename(new)
        if path.exists():
            path.rename(old)
        new.rename(path)
        _sync_directory(path.parent)
    except OSError as error:
        if not path.exists():
            with suppress(OSError):
                old.rename(path)
        shutil.rmtree(new, ignore_errors=True)
        raise _cannot_write(path, error) from error
    shutil.rmtree(old, ignore_errors=True)  # what stays is removed by the next write


def _sweep(path: Path) -> None:
    """Remove what killed writers left beside `path`; directories of writers that still live stay."""
    if path.exists():
        for state in _siblings(path):
            shutil.rmtree(state, ignore_errors=True)
    prefix = _writing_prefix(path)
    for entry in path.parent.iterdir():
        pid = entry.name.removeprefix(prefix).split(".")[0]
        if entry.name.startswith(prefix) and pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(entry, ignore_errors=True)


def _refuse_unless_replaceable(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise CheckpointError(f"{path}: expected a directory to write to, got a file; name another directory, or move the file")
    mounted = os.path.ismount(path)  # Path.is_mount is missing on Windows before Python 3.12
    if mounted or Path.cwd().is_relative_to(path):
        what = "a mount point" if mounted else "the current directory"
        raise CheckpointError(
            f"{path} is {what}, which cannot be replaced in one step; name a directory inside: {path / 'model'}"
        )
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise _cannot_write(path, error) from error
    strangers = [name for name in names if not _matches(name, _TOKENIZER)]
    if strangers and "config.json" not in names:
        raise CheckpointError(
            f"{path}: expected a new or empty directory, or one with a model (config.json), got {len(names)} other entries, "
            f"{strangers[0]!r} among them; name another directory: {path / 'model'}"
        )


def _carry_over(source: Path, target: Path, stale: list[tuple[str, ...]]) -> None:
    """Bring into `target` what it lacks of `source` and is not stale, by hard link where the file system can."""
    for entry in source.iterdir():
        there = target / entry.name
        if entry.is_dir() and not entry.is_symlink():
            if not os.path.lexists(there):
                there.mkdir()
            if there.is_dir() and not there.is_symlink():
                _carry_over(entry, there, stale=[])  # the groups are names of a model directory's own files
        elif not os.path.lexists(there) and not any(_matches(entry.name, group) for group in stale):
            _link_or_copy(entry, there)
    shutil.copymode(source, target)
    _sync_directory(target)


def _stale_groups(written: Path) -> list[tuple[str, ...]]:
    names = [entry.name for entry in written.iterdir()]
    return [group for group in (_WEIGHTS, _TOKENIZER) if any(_matches(name, group) for name in names)]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, target, follow_symlinks=False)
        if not target.is_symlink():
            _sync_file(target)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _sync_tree(directory: Path) -> None:
    for folder, _, files in os.walk(directory, topdown=False):
        for name in files:
            _sync_file(Path(folder, name))
        _sync_directory(Path(folder))


def _sync_file(path: Path) -> None:
    # Windows flushes only files that are open for writing; elsewhere a file may be read-only
    descriptor = os.open(path, os.O_RDWR if _WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    if _WINDOWS:  # which cannot open a directory, and keeps the order of renames by its journal
        return
    try:
        _sync_file(path)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot flush a directory
            raise


def _cannot_write(path: Path, error: OSError) -> CheckpointError:
    if error.errno in _NO_SPACE:
        cure = "free space there, or name a directory on another disk"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        cure = f"allow writing to {path.parent}, close programs that hold its files open, or name another directory"
    else:
        cure = "name another directory"
    where = f" at {error.filename}" if error.filename else ""
    state = "what it held stands unchanged" if path.exists() else "nothing was left there"
    return CheckpointError(f"{path}: expected to write the directory, got: {error.strerror or error}{where}; {state}; {cure}")
