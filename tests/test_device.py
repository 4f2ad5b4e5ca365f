"""Which device and dtype a name gives, on machines made up by monkeypatching torch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from gamut.device import memory_available, memory_total, pick_device, pick_dtype, threads
from gamut.errors import MissingError, OptionError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bool], None]:
    """Call it to pretend to have so many CUDA devices, and MPS or not."""

    def build(cuda: int, mps: bool) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return build


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(2, True, "cuda"), (1, False, "cuda"), (0, True, "mps"), (0, False, "cpu")]
)
def test_without_a_name_the_fastest_device_is_taken(
    cuda: int, mps: bool, expected: str, machine: Callable[[int, bool], None]
) -> None:
    machine(cuda, mps)
    assert pick_device() == torch.device(expected)
    assert pick_device(None) == torch.device(expected)


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:0", "cuda:1", "mps"])
def test_a_device_that_is_there_is_taken_by_name(name: str, machine: Callable[[int, bool], None]) -> None:
    machine(2, True)
    assert pick_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("name", "cuda", "says"),
    [
        ("cuda", 0, "found none; use cpu, or install a GPU driver"),
        ("cuda:2", 2, "found cuda:0 to cuda:1; use cuda:0"),
        ("mps", 1, "found none; use cpu"),
    ],
)
def test_a_device_that_is_not_there_is_missing_with_the_cure(
    name: str, cuda: int, says: str, machine: Callable[[int, bool], None]
) -> None:
    machine(cuda, False)
    with pytest.raises(MissingError) as error:
        pick_device(name)
    assert repr(name) in str(error.value)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("name", "hint"), [("cdua", "did you mean 'cuda'?"), ("gpu", "'gpu'"), ("", "''"), ("cuda:x", "cuda:N")]
)
def test_an_unknown_device_names_the_known_ones(name: str, hint: str) -> None:
    with pytest.raises(OptionError, match="device must be cpu, cuda, cuda:N or mps") as error:
        pick_device(name)
    assert hint in str(error.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, torch.float32),
        ("float32", torch.float32),
        ("fp32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("bf16", torch.bfloat16),
        ("float16", torch.float16),
        ("fp16", torch.float16),
        (torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.float32),
    ],
)
def test_dtypes_by_name_and_as_they_are(name: str | torch.dtype | None, expected: torch.dtype) -> None:
    assert pick_dtype(name) is expected


@pytest.mark.parametrize(("name", "hint"), [("bfp16", "did you mean '"), ("int8", "'int8'"), (torch.int64, "'int64'")])
def test_an_unknown_dtype_is_an_option_error(name: str | torch.dtype, hint: str) -> None:
    with pytest.raises(OptionError, match="dtype must be one of float32, ") as error:
        pick_dtype(name)
    assert hint in str(error.value)


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="needs POSIX's own account of memory")
def test_memory_is_in_bytes() -> None:
    assert memory_total() == pytest.approx(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), rel=0.01)
    assert 0 < memory_available() <= memory_total()


def test_threads_are_those_that_torch_uses() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert threads() == 1
    finally:
        torch.set_num_threads(before)


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, gamut.device; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
