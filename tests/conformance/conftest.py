"""Fixtures of the conformance tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conformance.socket_wire import EchoServer, echo_server


@pytest.fixture(scope="session", params=["asyncio", "uvloop"])
def echo(request: pytest.FixtureRequest) -> Iterator[EchoServer]:
    """One echo server per event loop, shared by the tests that leave it as they found it."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop")
    with echo_server(loop=request.param, errors_expected=True) as server:
        yield server
