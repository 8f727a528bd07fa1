"""Fixtures of the conformance tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conformance.socket_wire import EchoServer, echo_server, eventually


@pytest.fixture(scope="session", params=["asyncio", "uvloop"])
def shared_echo(request: pytest.FixtureRequest) -> Iterator[EchoServer]:
    """One echo server per event loop."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    with echo_server(loop=request.param, errors_expected=True) as server:
        yield server


@pytest.fixture
def echo(shared_echo: EchoServer) -> EchoServer:
    """Shared by the tests that leave it as they found it; the last one's connections are gone."""
    eventually(lambda: shared_echo.stats()["sockets"] == 0)
    return shared_echo
