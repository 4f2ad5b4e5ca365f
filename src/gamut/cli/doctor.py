"""`gamut doctor`: what this machine and this installation can do, what is missing, and what to do about it.

Whether a key is set is shown; a key's value is never read further than that.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import typer

from ..device import memory_available, memory_total, threads
from ..version import __version__

Status = Literal["ok", "warn", "fail"]

_KEYS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN")
_DEVELOPERS_EXTRAS = ("dev",)
_GIB = 2**30
# A small language model with its optimizer state is about 1 GiB; a hub download or a training run takes several.
_DISK_FAIL, _DISK_WARN = 1 * _GIB, 10 * _GIB
_MEMORY_WARN = 1 * _GIB


@dataclass(frozen=True, slots=True)
class Check:
    """One fact about the machine, and its cure where it is a fault."""

    name: str
    status: Status
    found: str
    fix: str = ""
    """What to do; empty exactly where the status is "ok"."""


def doctor(as_json: bool = typer.Option(False, "--json", help="Print one JSON object.")) -> None:
    """Check this machine and this installation. Exits with 1 if a check fails."""
    checks = list(run_checks())
    if as_json:
        typer.echo(
            json.dumps({"status": _worst(checks), "checks": [asdict(check) for check in checks]}, ensure_ascii=False, indent=2)
        )
    elif sys.stdout.isatty():
        _print_coloured(checks)
    else:
        _print_plain(checks)
    if _worst(checks) == "fail":
        raise typer.Exit(1)


def run_checks() -> Iterator[Check]:
    """Every check, in the order of the report."""
    yield Check("gamut", "ok", __version__)
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield from _packages()
    yield from _torch()
    yield _memory()
    yield from _disks_and_caches()
    yield from (Check(key, "ok", "set" if os.environ.get(key) else "not set") for key in _KEYS)


def _packages() -> Iterator[Check]:
    """What gamut's own metadata asks for: each core package against its lower bound, then each extra as a whole."""
    extras: dict[str, list[str]] = {}
    for requirement in metadata.requires("gamut") or []:
        # As in "torch>=2.6" and "transformers>=5.0; extra == 'hf'"
        package = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        bound = re.search(r">=\s*([\d.]+)", requirement)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        check = _package(package, bound[1] if bound else "0")
        if extra is None:
            yield check
        elif extra[1] not in _DEVELOPERS_EXTRAS:
            faults = extras.setdefault(extra[1], [])
            if check.status != "ok":
                faults.append(f"{package} {check.found}")
    for wanted, faults in extras.items():
        name = f"extra {wanted}"
        yield (
            Check(name, "warn", ", ".join(faults), f'pip install "gamut[{wanted}]"')
            if faults
            else Check(name, "ok", "installed")
        )


def _package(package: str, bound: str) -> Check:
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return Check(package, "fail", "not installed", f'pip install "{package}>={bound}"')
    if _release(version) < _release(bound):
        return Check(package, "fail", f"{version}, older than {bound}", f'pip install --upgrade "{package}>={bound}"')
    return Check(package, "ok", version)


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.13.0+cpu -> (2, 13)."""
    numbers = re.match(r"[\d.]*", version)
    release = [int(number) for number in (numbers[0] if numbers else "").split(".") if number]
    while release and release[-1] == 0:
        release.pop()
    return tuple(release)


def _torch() -> Iterator[Check]:
    try:
        import torch

        count = threads()
    except (ImportError, OSError) as error:  # OSError: one of its shared libraries does not load
        yield Check("cpu", "ok", f"{os.cpu_count()} cores")
        yield Check(
            "accelerators", "fail", f"torch cannot be imported ({type(error).__name__})", "pip install --force-reinstall torch"
        )
        return
    yield Check("cpu", "ok", f"{os.cpu_count()} cores, torch uses {count} threads")
    found = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("Apple GPU (mps)")
    yield Check("accelerators", "ok", ", ".join(found) or "none; models run on the CPU")


def _memory() -> Check:
    free = memory_available()
    found = f"{_size(free)} free of {_size(memory_total())}"
    if free < _MEMORY_WARN:
        return Check("memory", "warn", found, "close other programs, or choose a smaller model")
    return Check("memory", "ok", found)


def _disks_and_caches() -> Iterator[Check]:
    yield _disk("disk here", Path.cwd(), "free space on this disk, or work in a directory on another one")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read when huggingface_hub is imported
    try:
        cache = Path(importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE)
    except ImportError:
        return  # reported as a package that is missing
    yield _disk("disk of the cache", cache, "remove models with `hf cache rm`, or set HF_HOME to a directory on another disk")
    yield Check("cache", "ok", f"{cache} ({_size(_bytes_in(cache)) if cache.is_dir() else 'empty'})")


def _disk(name: str, place: Path, fix: str) -> Check:
    existing = next(parent for parent in (place, *place.absolute().parents) if parent.exists())
    usage = shutil.disk_usage(existing)
    found = f"{_size(usage.free)} free of {_size(usage.total)}"
    status: Status = "fail" if usage.free < _DISK_FAIL else "warn" if usage.free < _DISK_WARN else "ok"
    return Check(name, status, found, "" if status == "ok" else fix)


def _bytes_in(directory: Path) -> int:
    """Bytes of all files below; links, of which the hub's cache makes many, do not count twice."""
    total = 0
    for folder, _, files in os.walk(directory):
        for file in files:
            try:
                total += Path(folder, file).lstat().st_size
            except OSError:
                continue  # a running download renamed it meanwhile
    return total


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _worst(checks: list[Check]) -> Status:
    statuses = {check.status for check in checks}
    return "fail" if "fail" in statuses else "warn" if "warn" in statuses else "ok"


def _print_plain(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        typer.echo(f"{check.status:<4}  {check.name:<{width}}  {check.found}")
        if check.fix:
            typer.echo(f"{'':<4}  {'':<{width}}  fix: {check.fix}")


def _print_coloured(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False)
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    for check in checks:
        # Text, because rich would read the brackets of "gamut[hf]" as a style
        found = Text(check.found + (f"\nfix: {check.fix}" if check.fix else ""))
        table.add_row(Text(check.status, style=colours[check.status]), Text(check.name), found)
    Console().print(table)
