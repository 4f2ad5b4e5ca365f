"""What conftest.py promises to every test: no network."""

from __future__ import annotations

import socket

import pytest


def test_the_name_of_another_host_cannot_be_resolved() -> None:
    with pytest.raises(AssertionError, match=r"asked for the host 'example\.org': no test uses the network"):
        socket.create_connection(("example.org", 80), timeout=1)


def test_this_machine_can_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
