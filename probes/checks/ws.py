"""Do WebSocket frames pass to one region, and is it that region that answers?"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from probes.checks import certificate
from probes.checks.outcome import WORDS, in_ms, reason_of, spoken_ms, target_of
from probes.messages import (
    WS_DEADLINE_S,
    WS_PONGS_TO_PASS,
    Region,
    WsBye,
    WsHello,
    WsPing,
    WsPong,
)
from probes.reasons import Reason, State
from probes.verdict import CheckResult

_FRAME: msgspec.json.Decoder[WsHello | WsPong] = msgspec.json.Decoder(WsHello | WsPong)
_encode = msgspec.json.Encoder().encode


class WsCheck:
    """One region; passed = upgrade, the right region, our nonce, and 3 pongs within 10 s."""

    def __init__(self, region: Region, tls: ssl.SSLContext | None = None) -> None:
        self.region = region
        self._tls = tls
        self._has_answered = False

    def waiting(self) -> CheckResult:
        return self._result(State.WAITING)

    async def check(self) -> CheckResult:
        began = time.monotonic()
        is_tls = self.region.ws_url.startswith("wss:")
        try:
            async with asyncio.timeout(WS_DEADLINE_S):
                connection = await connect(
                    self.region.ws_url,
                    ssl=(self._tls or True) if is_tls else None,
                    compression=None,
                    open_timeout=None,
                    close_timeout=1,
                    max_size=4096,
                )
        except TimeoutError:
            return self._result(State.FAILED, Reason.UNREACHABLE)
        except InvalidStatus as flaw:
            status = f"the upgrade is answered with {flaw.response.status_code}"
            return self._result(State.FAILED, Reason.UPGRADE_REFUSED, status)
        except InvalidHandshake:
            return self._result(State.FAILED, Reason.UPGRADE_REFUSED, "the upgrade is refused")
        except OSError as flaw:
            return self._result(State.FAILED, reason_of(flaw))
        opened_s = time.monotonic() - began
        try:
            async with asyncio.timeout(max(0.1, WS_DEADLINE_S - opened_s)):
                return await self._converse(connection, in_ms(opened_s))
        except TimeoutError:
            return self._cut(Reason.TIMEOUT, WORDS[Reason.TIMEOUT])
        except ConnectionClosed:
            return self._cut(Reason.SERVER_GONE, "it answered, and then was gone")
        except (msgspec.DecodeError, UnicodeError):
            return self._result(State.FAILED, Reason.WRONG_NONCE, "something else answers here")
        finally:
            await connection.close()

    def _cut(self, reason: Reason, text: str) -> CheckResult:
        """Frames stopped; `reason` holds if some had come."""
        if not self._has_answered:
            reason, text = Reason.FRAMES_BLOCKED, "it opens, and frames do not come through"
        return self._result(State.FAILED, reason, text)

    async def _converse(self, connection: ClientConnection, opened_ms: float) -> CheckResult:
        nonce = secrets.token_hex(8)
        await connection.send(_encode(WsHello(nonce=nonce)).decode())
        hello = await self._next_hello(connection)
        if not hello.nonce:
            hello = await self._next_hello(connection)
        if hello.nonce != nonce:
            return self._result(State.FAILED, Reason.WRONG_NONCE, "something else answers here")
        if hello.region != self.region.id:
            text = f"region {hello.region} answers here"
            return self._result(State.FAILED, Reason.WRONG_REGION, text)
        trips = []
        for seq in range(1, WS_PONGS_TO_PASS + 1):
            sent = time.monotonic()
            await connection.send(_encode(WsPing(seq)).decode())
            pong = _FRAME.decode(await connection.recv())
            if not isinstance(pong, WsPong) or pong.seq != seq:
                return self._result(State.FAILED, Reason.FRAMES_BLOCKED, "a wrong pong came")
            trips.append(time.monotonic() - sent)
        await connection.send(_encode(WsBye()).decode())
        median_ms = in_ms(sorted(trips)[len(trips) // 2])
        tls = connection.transport.get_extra_info("ssl_object")
        figures = {
            "connect_ms": opened_ms,
            "round_trip_ms": median_ms,
            **certificate.expiry(tls),
        }
        text = f"connects in {spoken_ms(opened_ms)}, answers in {spoken_ms(median_ms)}"
        return self._result(State.PASSED, detail=text, figures=figures)

    async def _next_hello(self, connection: ClientConnection) -> WsHello:
        frame = _FRAME.decode(await connection.recv())
        if not isinstance(frame, WsHello):
            raise msgspec.DecodeError("a hello must come first")
        self._has_answered = True
        return frame

    def _result(
        self,
        state: State,
        reason: Reason = Reason.NONE,
        detail: str = "",
        figures: dict[str, float] | None = None,
    ) -> CheckResult:
        return CheckResult(
            name="ws",
            state=state,
            reason=reason,
            region=self.region.id,
            target=target_of(self.region.ws_url),
            detail=detail or WORDS.get(reason, ""),
            figures=figures or {},
        )
