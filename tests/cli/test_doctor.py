"""What `gamut doctor` reports, with faults of the machine put in by hand."""

from __future__ import annotations

import json
import shutil
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from gamut.cli import doctor as doctor_module
from gamut.cli.doctor import doctor

SECRETS = {
    "OPENAI_API_KEY": "sk-verysecret-0123456789",
    "OPENAI_BASE_URL": "http://user:hunter2@host/v1",
    "HF_TOKEN": "hf_qwertzuiop",
}
USAGE = namedtuple("USAGE", "total used free")
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def report(*args: str) -> Result:
    app = typer.Typer()
    app.command()(doctor)
    return CliRunner().invoke(app, args)


def checks_by_name(result: Result) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


@pytest.fixture(autouse=True)
def healthy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without faults, whatever the one is that runs the tests."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(2**40, 2**39, 2**39))
    monkeypatch.setattr(doctor_module, "memory_available", lambda: 2**34)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache" / "hub"))
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)


def version_of(package: str, version: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that `package` is installed in `version`, or not at all."""
    real = metadata.version

    def fake(name: str) -> str:
        if name != package:
            return real(name)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(metadata, "version", fake)


def test_a_healthy_machine_exits_0_and_json_holds_every_check() -> None:
    result = report("--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["status"] in ("ok", "warn")  # an extra may be missing where the tests run
    checks = checks_by_name(result)
    assert {"gamut", "python", "torch", "tokenizers", "cpu", "accelerators", "memory", "cache", *SECRETS} <= checks.keys()
    assert checks["python"]["found"].startswith(".".join(map(str, sys.version_info[:3])))
    for check in checks.values():
        assert (check["fix"] == "") == (check["status"] == "ok"), check


def test_every_declared_requirement_is_checked() -> None:
    import tomllib

    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    checks = {name.replace("_", "-") for name in checks_by_name(report("--json"))}
    for requirement in project["dependencies"]:
        assert requirement.split(">=")[0].replace("_", "-") in checks
    for extra in set(project["optional-dependencies"]) - {"dev"}:
        assert f"extra {extra}" in checks
    assert "extra dev" not in checks


@pytest.mark.parametrize("args", [[], ["--json"]])
def test_a_keys_value_is_never_shown(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    output = report(*args).output
    for name, value in SECRETS.items():
        assert name in output
        for start in range(len(value) - 5):
            assert value[start : start + 6] not in output


def test_a_key_is_set_or_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    checks = checks_by_name(report("--json"))
    assert checks["HF_TOKEN"]["found"] == "set"
    assert checks["OPENAI_API_KEY"]["found"] == "not set"


@pytest.mark.parametrize(("free", "status", "code"), [(2**30 - 1, "fail", 1), (2**30, "warn", 0), (10 * 2**30, "ok", 0)])
def test_little_disk_warns_and_less_fails_with_its_fix(
    free: int, status: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: USAGE(2**40, 2**40 - free, free))
    result = report("--json")
    assert result.exit_code == code
    for name, fix in (("disk here", "free space"), ("disk of the cache", "HF_HOME")):
        check = checks_by_name(result)[name]
        assert check["status"] == status
        assert (fix in check["fix"]) == (status != "ok")


@pytest.mark.parametrize(
    ("version", "found", "fix"),
    [
        ("2.5.1+cpu", "2.5.1+cpu, older than 2.6", 'pip install --upgrade "torch>=2.6"'),
        (None, "not installed", 'pip install "torch>=2.6"'),
    ],
)
def test_an_old_or_missing_torch_fails_with_its_fix(
    version: str | None, found: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_of("torch", version, monkeypatch)
    result = report()
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.split()[:2] == ["fail", "torch"])
    assert found in lines[at]
    assert lines[at + 1].strip() == f"fix: {fix}"


@pytest.mark.parametrize("version", ["2.6", "2.6.0", "2.10.0", "3.0a1"])
def test_a_version_at_or_above_the_bound_is_fine(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    version_of("torch", version, monkeypatch)
    assert checks_by_name(report("--json"))["torch"]["status"] == "ok"


def test_a_torch_that_does_not_import_fails_and_the_rest_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # makes `import torch` raise ImportError
    result = report("--json")
    assert result.exit_code == 1
    checks = checks_by_name(result)
    assert checks["accelerators"]["status"] == "fail"
    assert checks["accelerators"]["fix"] == "pip install --force-reinstall torch"
    assert checks["HF_TOKEN"]["status"] == "ok"


def test_a_missing_extra_warns_with_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    version_of("transformers", None, monkeypatch)
    result = report("--json")
    assert result.exit_code == 0
    assert checks_by_name(result)["extra hf"] == {
        "name": "extra hf",
        "status": "warn",
        "found": "transformers not installed",
        "fix": 'pip install "gamut[hf]"',
    }


def test_little_memory_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "memory_available", lambda: 2**30 - 1)
    assert checks_by_name(report("--json"))["memory"]["status"] == "warn"


def test_the_cache_is_measured_without_counting_links_twice(tmp_path: Path) -> None:
    hub = tmp_path / "cache" / "hub"
    (hub / "blobs").mkdir(parents=True)
    (hub / "blobs" / "a").write_bytes(b"x" * 3 * 2**20)
    (hub / "link").symlink_to("blobs/a")
    found = checks_by_name(report("--json"))["cache"]["found"]
    assert str(hub) in found
    assert "(3.0 MiB)" in found


def test_a_terminal_gets_colours_and_the_brackets_of_a_command_survive(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version_of("transformers", None, monkeypatch)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    doctor(as_json=False)
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert 'pip install "gamut[hf]"' in out


def test_off_a_terminal_the_list_is_plain_and_aligned() -> None:
    lines = report().stdout.splitlines()
    assert not any("\x1b" in line for line in lines)
    columns = {line.index(word) for line in lines for word in ("set", "not set") if line.endswith(f"  {word}")}
    assert len(columns) == 1
