"""What a model's name means: a directory, a repository of the hub, an endpoint, or a model that ships with gamut."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from ..errors import CheckpointError, NotFoundError, nearest
from .io import read_json, recover

Kind = Literal["path", "hf", "openai", "inference", "transformers", "builtin"]

_BUILTIN = ("mini", "minilm")
_PREFIXES: dict[str, Kind] = {"hf": "hf", "openai": "openai", "inference": "inference", "transformers": "transformers"}
_GRAMMAR = "a model is named as ./directory, hf:org/name[@revision], openai:NAME, inference:org/name or transformers:PATH-OR-ID"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_HUB_URL = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)", re.ASCII)
_LOOKS_LIKE_A_PATH = re.compile(r"[.~/\\]|[A-Za-z]:[/\\]")
# What a model directory consists of. Pickles are fetched only on demand; the folders repeat the model in other formats.
_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_NOT_FILES = ("consolidated*", "onnx/*", "openvino/*", "original/*", "gguf/*")

_MEANING: dict[Kind, str] = {
    "openai": "a model behind an OpenAI-compatible endpoint",
    "inference": "a model that Hugging Face's inference service runs",
    "transformers": "a model that the transformers library runs",
    "builtin": "a model that ships with gamut",
}


@dataclass(frozen=True, slots=True)
class Ref:
    """A model's name, taken apart."""

    kind: Kind
    name: str
    """Without its prefix: a path, ``org/name``, or the name that an endpoint knows."""
    revision: str | None = None
    """A branch, tag or commit of the hub; ``None`` is its main branch."""


def parse(ref: str) -> Ref:
    """Say what the name `ref` means. Looks at the disk, never at the network.

    Raises:
        NotFoundError: it has no known prefix, is no built-in name, and no such directory exists; or it names a file.
    """
    if ref in _BUILTIN:
        return Ref("builtin", ref)
    prefix, colon, name = ref.partition(":")
    if colon and prefix in _PREFIXES:
        return _parse_prefixed(_PREFIXES[prefix], name, ref)
    path = _expand(ref)
    if ref.strip() and "\0" not in ref:
        with suppress(OSError):  # a name that no file can have
            recover(path)
            if path.is_dir():
                return Ref("path", str(path))
            if path.exists():
                raise NotFoundError(
                    f"{ref}: expected a model directory, got a file; name the directory that holds it: {path.parent}"
                )
    raise NotFoundError(_unknown(ref))


def resolve(ref: str | Ref, *, allow_pickle: bool = False) -> Path:
    """The local directory of a model; one of the hub is fetched unless huggingface_hub's cache holds it.

    A cached model is used as it is, without a look at the network: `hf download org/name` brings a branch up to date. Pickled
    weights (.bin) are fetched only with `allow_pickle`, and only where there are no safetensors.

    Raises:
        NotFoundError: there is no such model, it is not cached and cannot be fetched, or this kind of name has no directory.
    """
    if isinstance(ref, str):
        ref = parse(ref)
    if ref.kind == "path":
        return Path(ref.name)
    if ref.kind == "hf":
        directory = _snapshot(ref, _FILES)
        if allow_pickle and not any(directory.glob("*.safetensors")):
            directory = _snapshot(ref, (*_FILES, "*.bin"))
        return directory
    raise NotFoundError(
        f"{ref.name!r} means {_MEANING[ref.kind]}, and this version of gamut cannot run such a model yet; "
        "name a directory (./path) or a model of the hub (hf:org/name)"
    )


def _expand(ref: str) -> Path:
    try:
        return Path(ref).expanduser()
    except (RuntimeError, ValueError):  # ~name of somebody whom this machine does not know
        return Path(ref)


def _parse_prefixed(kind: Kind, name: str, ref: str) -> Ref:
    revision = None
    if kind == "hf":
        name, at, revision = name.partition("@") if "@" in name else (name, "", None)
        if not _REPOSITORY.fullmatch(name) or (at and not revision):
            raise NotFoundError(f"{ref!r}: expected hf:org/name or hf:org/name@revision, as in hf:openai-community/gpt2@main")
    elif not name:
        raise NotFoundError(f"{ref!r}: expected the model's name after {kind}:, got nothing; {_GRAMMAR}")
    return Ref(kind, name, revision)


def _unknown(ref: str) -> str:
    """Why `ref` names nothing, and what may have been meant."""
    prefix, colon, _ = ref.partition(":")
    if not ref.strip():
        return f"expected a model's name, got an empty text; {_GRAMMAR}"
    if url := _HUB_URL.match(ref):
        return f"{ref}: expected a model's name, got a web address; write hf:{url[1]}"
    if _LOOKS_LIKE_A_PATH.match(ref):
        path = _expand(ref)
        with suppress(OSError):
            hint = nearest(path.name, (entry.name for entry in path.parent.iterdir() if entry.is_dir()))
            return f"{ref}: no such directory{hint}; check the name, or write the model there first"
        return f"{ref}: no such directory, and neither is {path.parent}; check the name"
    if colon:
        return f"{ref!r}: unknown prefix {prefix + ':'!r}{nearest(prefix, _PREFIXES)}; {_GRAMMAR}"
    builtin = nearest(ref, _BUILTIN)
    if _REPOSITORY.fullmatch(ref):
        return f"{ref}: no such directory{builtin}; for the model of that name on the Hugging Face hub write hf:{ref}"
    return f"{ref!r}: no such directory{builtin}; {_GRAMMAR}"


def _snapshot(ref: Ref, patterns: tuple[str, ...]) -> Path:
    """The directory of a hub model in huggingface_hub's cache, fetched where it is not whole there."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when huggingface_hub is imported
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    fetch = partial(
        snapshot_download, ref.name, revision=ref.revision, allow_patterns=list(patterns), ignore_patterns=list(_NOT_FILES)
    )
    written = f"hf:{ref.name}" + (f"@{ref.revision}" if ref.revision else "")
    page = f"https://huggingface.co/{ref.name}"
    # Messages of huggingface_hub may repeat the addresses and settings of the caller, so none is passed on.
    try:
        with suppress(LocalEntryNotFoundError):
            cached = Path(fetch(local_files_only=True))
            if _holds_weights(cached, pickles="*.bin" in patterns):
                return cached
        return Path(fetch())
    except GatedRepoError as error:
        raise NotFoundError(f"{written}: its owner asks for consent; accept it at {page}, then run `hf auth login`") from error
    except RepositoryNotFoundError as error:
        raise NotFoundError(
            f"{written}: the hub has no such model, or it is private; check the name at {page}, or run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise NotFoundError(
            f"{written}: the model has no revision {ref.revision!r}; its revisions are at {page}/tree"
        ) from error
    except LocalEntryNotFoundError as error:
        raise NotFoundError(
            f"{written}: not in the local cache, and the hub cannot be reached (no network, or offline mode is on); "
            f"connect and run `hf download {ref.name}`, or name a directory: ./path"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise NotFoundError(
            f"{written}: the hub answered with status {status}; try again later, or name a directory"
        ) from error
    except Exception as error:  # timeouts, proxies, a broken connection, a full disk: each library below has its own classes
        kind = type(error).__name__
        raise NotFoundError(
            f"{written}: the download failed ({kind}); check network and disk with `gamut doctor`, or name a directory: ./path"
        ) from error


def _holds_weights(directory: Path, *, pickles: bool) -> bool:
    """Whether a cached directory has the weights: other programs may have fetched only its tokenizer, or half of its shards."""
    index = directory / "model.safetensors.index.json"
    if index.exists():
        with suppress(CheckpointError):
            shards = read_json(index).get("weight_map", {}).values()
            return all((directory / str(shard)).exists() for shard in shards)
        return False
    return any(directory.glob("*.safetensors")) or (pickles and any(directory.glob("*.bin")))
