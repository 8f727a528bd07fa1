"""Nothing is kept: not after all have left, and not after ten thousand joins and leaves."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest
from rtc import traceless, until
from servers import Parley, resident_bytes, start_parley
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from signal_server.client import SignalingClient
from signal_server.client_wire import SignalingError
from signal_server.wire.candidate import CandidateInit

WARM_UP = 2_000
JOINS = 10_000
CREDENTIAL_BYTES = 400
"""A credential is remembered as long as it lives, so that it can be revoked."""
ALLOWED_GROWTH = 2 * 1024 * 1024 + JOINS * CREDENTIAL_BYTES
LEVELS = (
    "signaling_rooms",
    "signaling_sessions",
    "signaling_connections",
    "signaling_candidates_buffered",
    "signaling_candidate_buffer_bytes",
)


@pytest.fixture(scope="module")
def parley() -> Iterator[Parley]:
    with start_parley("--no-rate-limits", "--resume-window", "1") as parley:
        yield parley
        assert traceless(parley.log_file)


def levels(parley: Parley) -> dict[str, float]:
    return {name: parley.metric(name) for name in LEVELS}


async def test_peer_everything_is_gone_when_all_have_left(parley: Parley) -> None:
    """Half-done negotiations and held candidates included; one leaves, one says bye, one drops."""
    gated = [
        SignalingClient(parley.ws_url, parley.token(f"peer{number}"), room="full")
        for number in range(3)
    ]
    leaves, says_bye, drops = gated
    async with leaves, says_bye:
        await drops.__aenter__()
        await until(lambda: len(leaves.roster.peers) == 2)
        sdp = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=ice-ufrag:A\r\n"
        candidate = CandidateInit("candidate:1 1 udp 1 10.0.0.1 1 typ host", "0", 0, "A")
        for one, other in itertools.permutations(gated, 2):
            await one.offer(other.peer, sdp)
            await one.candidates(other.peer, [candidate, None])
        present = levels(parley)
        assert present["signaling_rooms"] == 1
        assert present["signaling_sessions"] == 3
        assert present["signaling_candidates_buffered"] == 12
        drops._line.socket.transport.abort()
        drops._task.cancel()  # type: ignore[union-attr]
        await until(lambda: len(leaves.roster.peers) == 1)
        await says_bye.close()
        await until(lambda: not leaves.roster.peers)
        assert parley.metric("signaling_candidates_buffered") == 0
        await leaves.leave()
        assert levels(parley) == dict.fromkeys(LEVELS, 0) | {
            "signaling_sessions": 1,
            "signaling_connections": 1,
        }
        with pytest.raises(SignalingError, match="wrong_state"):
            await leaves.leave()
    await drops.close()
    await until(lambda: not any(levels(parley).values()))


async def come_and_go(parley: Parley, token: str, times: int, room: Iterator[int]) -> None:
    """Whole sessions, without the client's own weight: hello into a room, hear of it, bye."""
    protocols = [Subprotocol("parley.v1.json")]
    for _ in range(times):
        async with connect(
            parley.ws_url, subprotocols=protocols, compression=None, ping_interval=None
        ) as socket:
            name = f"r{next(room) % 50}"
            await socket.send(
                f'{{"type":"hello","id":1,"token":"{token}","room":"{name}","data":{{"n":1}}}}'
            )
            while '"ok"' not in str(await socket.recv()):
                pass
            await socket.send('{"type":"message","data":"hello"}')
            await socket.send('{"type":"leave","id":2}')
            while '"id":2' not in str(await socket.recv()):
                pass


async def test_peer_memory_is_flat_over_ten_thousand_joins(parley: Parley) -> None:
    tokens = [parley.token(f"visitor{number}") for number in range(8)]
    rooms = itertools.count()

    async def all_come_and_go(joins: int) -> None:
        share = joins // len(tokens)
        await asyncio.gather(*(come_and_go(parley, token, share, rooms) for token in tokens))
        await asyncio.to_thread(parley.metric, "signaling_joins_total")

    await all_come_and_go(WARM_UP)
    before = resident_bytes(parley.pid)
    await all_come_and_go(JOINS)
    growth = resident_bytes(parley.pid) - before
    assert parley.metric("signaling_joins_total") >= WARM_UP + JOINS
    await until(lambda: not any(levels(parley).values()))
    assert growth < ALLOWED_GROWTH, f"grew by {growth} bytes"
