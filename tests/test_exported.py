"""The public names: ``gamut.__all__`` is the list below, and every name of every room's list is there."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest

import gamut

PUBLIC = [
    "Chunk",
    "Completion",
    "GamutError",
    "LanguageModel",
    "Message",
    "SamplingParams",
    "TokenLogprob",
    "__version__",
    "load",
]
PACKAGES = [found.name for found in pkgutil.walk_packages(gamut.__path__, "gamut.") if found.ispkg]


def test_the_public_list_is_the_one_written_here() -> None:
    assert gamut.__all__ == PUBLIC


def test_dir_shows_the_public_list() -> None:
    assert dir(gamut) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(gamut, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'gamut' has no attribute 'nothing'"):
        _ = gamut.nothing


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_that_a_room_exports_is_there(package: str) -> None:
    room = import_module(package)
    exported = getattr(room, "__all__", [])
    assert [name for name in exported if not hasattr(room, name)] == []
    assert len(set(exported)) == len(exported)
