"""Makes every test repeatable: one thread, no network, no chance, whatever the machine."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
from hypothesis import settings

# Read by torch, tokenizers and huggingface_hub when they are imported, so they stand before any test module.
os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")

settings.register_profile("gamut", derandomize=True, deadline=None)
settings.load_profile("gamut")

LOCAL = {None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name that is not this machine's cannot be resolved."""
    resolve = socket.getaddrinfo

    def resolve_local(host: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in LOCAL:
            raise AssertionError(f"a test asked for the host {name!r}: no test uses the network")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_local)
