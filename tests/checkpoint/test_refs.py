"""What models' names mean, and what is said of names that mean nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors as hub_errors

from gamut.checkpoint.refs import Ref, parse, resolve
from gamut.errors import GamutError, NotFoundError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty directory, with an empty hub cache beside it."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return directory


def refusal(ref: str) -> str:
    with pytest.raises(NotFoundError) as error:
        resolve(ref)
    return str(error.value)


# parse


@pytest.mark.parametrize(
    ("ref", "expected"),
    [
        ("mini", Ref("builtin", "mini")),
        ("minilm", Ref("builtin", "minilm")),
        ("hf:gpt2", Ref("hf", "gpt2")),
        ("hf:openai-community/gpt2", Ref("hf", "openai-community/gpt2")),
        ("hf:org/name@v1.0", Ref("hf", "org/name", "v1.0")),
        ("hf:org/name@refs/pr/1", Ref("hf", "org/name", "refs/pr/1")),
        ("openai:llama3:8b", Ref("openai", "llama3:8b")),
        ("inference:org/name", Ref("inference", "org/name")),
        ("transformers:./dir", Ref("transformers", "./dir")),
    ],
)
def test_prefixes_and_built_in_names(ref: str, expected: Ref) -> None:
    assert parse(ref) == expected


@pytest.mark.parametrize("ref", ["./m", "m", "../here/m", "{absolute}/m", "deep/er", "odd:name"])
def test_a_directory_is_a_path_however_it_is_written(ref: str, here: Path) -> None:
    for name in ("m", "deep/er", "odd:name"):
        (here / name).mkdir(parents=True)
    ref = ref.format(absolute=here)
    found = parse(ref)
    assert found.kind == "path"
    assert Path(found.name) == Path(ref)
    assert resolve(ref) == Path(ref)
    assert resolve(found) == Path(ref)


def test_a_tilde_is_the_home_directory(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("USERPROFILE", str(here))
    (here / "m").mkdir()
    assert parse("~/m") == Ref("path", str(here / "m"))


def test_a_built_in_name_wins_over_a_directory_which_a_dot_names(here: Path) -> None:
    (here / "mini").mkdir()
    assert parse("mini").kind == "builtin"
    assert parse("./mini").kind == "path"


def test_a_write_that_was_killed_between_its_renames_is_put_right(here: Path) -> None:
    (here / ".m.gamut-old").mkdir()
    (here / ".m.gamut-new").mkdir()
    (here / ".m.gamut-new" / "config.json").write_text("new")
    assert (resolve("./m") / "config.json").read_text() == "new"


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("gpt2", "gpt2: no such directory; for the model of that name on the Hugging Face hub write hf:gpt2"),
        ("org/name", "write hf:org/name"),
        ("mimi", "did you mean 'mini'?"),
        ("hff:org/name", "unknown prefix 'hff:'; did you mean 'hf'?"),
        ("opnai:gpt-4o", "did you mean 'openai'?"),
        ("zzz:x", "unknown prefix 'zzz:'; a model is named as ./directory, hf:org/name[@revision], openai:NAME"),
        ("https://huggingface.co/org/name/tree/main", "got a web address; write hf:org/name"),
        ("hf:", "expected hf:org/name"),
        ("hf:a/b/c", "expected hf:org/name"),
        ("hf:org/name@", "expected hf:org/name"),
        ("hf:../etc", "expected hf:org/name"),
        ("openai:", "expected the model's name after openai:"),
        ("", "expected a model's name, got an empty text"),
        ("  ", "got an empty text"),
        ("a\0b", "no such directory"),
        ("x" * 5000, "no such directory"),
        ("two words", "no such directory; a model is named as"),
        ("./modle", "./modle: no such directory; did you mean 'model'?"),
        ("./none/at/all", "no such directory, and neither is none/at"),
        ("~nobody-of-this-name/m", "~nobody-of-this-name/m: no such directory"),
        ("C:\\models\\m", "C:\\models\\m: no such directory"),
        ("D:/models/m", "D:/models/m: no such directory"),
    ],
)
def test_a_name_that_means_nothing_gets_its_cure(ref: str, says: str, here: Path) -> None:
    (here / "model").mkdir()
    assert says in refusal(ref).replace(os.sep, "/" if "\\" not in ref else os.sep)


def test_a_file_is_not_a_directory(here: Path) -> None:
    (here / "m").mkdir()
    (here / "m" / "model.safetensors").touch()
    assert f"expected a model directory, got a file; name the directory that holds it: {Path('m')}" in refusal(
        "m/model.safetensors"
    )


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("mini", "ships with gamut"),
        ("openai:gpt-4o", "OpenAI-compatible endpoint"),
        ("inference:org/name", "inference service"),
        ("transformers:org/name", "transformers library"),
    ],
)
def test_a_kind_without_a_directory_says_what_it_means_and_what_works(
    ref: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://secret-host")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with pytest.raises(GamutError) as error:
        resolve(ref)
    assert says in str(error.value)
    assert "cannot run such a model yet; name a directory (./path) or a model of the hub (hf:org/name)" in str(error.value)
    assert "secret" not in str(error.value)


# the hub


class Hub:
    """Stands in for snapshot_download: serves `remote` into a directory, of which `cached` is there already."""

    def __init__(self, directory: Path, *, cached: tuple[str, ...] = (), remote: tuple[str, ...] | Exception = ()) -> None:
        self.directory, self.cached, self.remote = directory, cached, remote
        self.calls: list[dict[str, Any]] = []

    def __call__(self, repository: str, *, local_files_only: bool = False, **options: Any) -> str:
        self.calls.append({"repository": repository, "local": local_files_only, **options})
        if local_files_only and not self.cached:
            raise hub_errors.LocalEntryNotFoundError("not cached")
        if not local_files_only and isinstance(self.remote, Exception):
            raise self.remote
        self.directory.mkdir(exist_ok=True)
        files = self.cached if local_files_only else (*self.cached, *self.remote)
        for file in files:
            if any(Path(file).match(pattern) for pattern in options["allow_patterns"]):
                (self.directory / file).write_text("{}")
        return str(self.directory)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it to put a hub with these files, or this failure, in place."""

    def build(**files: Any) -> Hub:
        fake = Hub(tmp_path / "snapshot", **files)
        monkeypatch.setattr("huggingface_hub.snapshot_download", fake)
        return fake

    return build


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_model_of_the_hub_is_fetched_without_pickles(hub: Any) -> None:
    fake = hub(
        remote=("config.json", "model.safetensors", "pytorch_model.bin", "chat_template.jinja", "merges.txt", "a.py", "b.h5")
    )
    directory = resolve("hf:org/name@v2")
    assert files_in(directory) == ["chat_template.jinja", "config.json", "merges.txt", "model.safetensors"]
    assert [call["local"] for call in fake.calls] == [True, False]
    assert all(call["repository"] == "org/name" and call["revision"] == "v2" for call in fake.calls)


def test_a_cached_model_is_used_without_the_network(hub: Any) -> None:
    fake = hub(cached=("config.json", "model.safetensors"), remote=RuntimeError("the network was asked"))
    resolve("hf:org/name")
    assert [call["local"] for call in fake.calls] == [True]


def test_a_cache_without_weights_is_completed(hub: Any) -> None:
    fake = hub(cached=("config.json", "tokenizer.json"), remote=("model.safetensors",))
    assert "model.safetensors" in files_in(resolve("hf:org/name"))
    assert [call["local"] for call in fake.calls] == [True, False]


def test_a_cache_with_half_of_the_shards_is_completed(hub: Any) -> None:
    fake = hub(cached=("a.safetensors",), remote=("b.safetensors",))
    fake.directory.mkdir()
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (fake.directory / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "b.safetensors" in files_in(resolve("hf:org/name"))
    resolve("hf:org/name")
    assert [call["local"] for call in fake.calls] == [True, False, True]


def test_pickles_are_fetched_only_when_allowed_and_only_without_safetensors(hub: Any, tmp_path: Path) -> None:
    hub(remote=("config.json", "pytorch_model.bin"))
    assert files_in(resolve("hf:org/name")) == ["config.json"]
    assert files_in(resolve("hf:org/name", allow_pickle=True)) == ["config.json", "pytorch_model.bin"]
    for file in (tmp_path / "snapshot").iterdir():
        file.unlink()
    hub(remote=("config.json", "model.safetensors", "pytorch_model.bin"))
    assert files_in(resolve("hf:org/name", allow_pickle=True)) == ["config.json", "model.safetensors"]


def http_error(kind: type[Exception], status: int) -> Exception:
    return kind("at http://secret-endpoint", response=SimpleNamespace(status_code=status, headers={}, request=None))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (http_error(hub_errors.RepositoryNotFoundError, 404), "the hub has no such model, or it is private; check the name at"),
        (http_error(hub_errors.GatedRepoError, 403), "accept it at https://huggingface.co/org/name, then run `hf auth login`"),
        (http_error(hub_errors.RevisionNotFoundError, 404), "the model has no revision 'v9'"),
        (http_error(hub_errors.HfHubHTTPError, 503), "the hub answered with status 503; try again later"),
        (hub_errors.LocalEntryNotFoundError("at http://secret-endpoint"), "connect and run `hf download org/name`"),
        (
            TimeoutError("at http://secret-endpoint"),
            "the download failed (TimeoutError); check network and disk with `gamut doctor`",
        ),
    ],
)
def test_each_failure_of_the_hub_gets_its_cure_and_leaks_no_setting(failure: Exception, says: str, hub: Any) -> None:
    hub(remote=failure)
    message = refusal("hf:org/name@v9")
    assert message.startswith("hf:org/name@v9: ")
    assert says in message
    assert "secret" not in message


def test_the_real_cache_of_huggingface_hub_is_read(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "model.safetensors").touch()
    assert resolve("hf:org/name") == snapshot
    assert resolve(f"hf:org/name@{COMMIT}") == snapshot


NO_NETWORK = """
import socket, sys

def refuse(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

socket.getaddrinfo = refuse
from gamut.checkpoint.refs import resolve
from gamut.errors import NotFoundError
try:
    resolve("hf:org/name")
except NotFoundError as error:
    print(error)
from huggingface_hub import constants
print("telemetry off:", constants.HF_HUB_DISABLE_TELEMETRY)
"""


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_network_it_fails_at_once_with_the_cure(offline: str, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK")}
    env |= {"HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path / "home")}
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", NO_NETWORK], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert time.monotonic() - started < 30  # imports on a busy machine included; retries with backoff would take longer
    message, telemetry = done.stdout.splitlines()
    assert message.startswith("hf:org/name: not in the local cache, and the hub cannot be reached")
    assert message.endswith("connect and run `hf download org/name`, or name a directory: ./path")
    assert telemetry == "telemetry off: True"
