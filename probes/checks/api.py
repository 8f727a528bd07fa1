"""Is the deployment's HTTP API there: ping, a probe session, the log. It does not know TURN."""

from __future__ import annotations

import ssl
import time
from typing import Any

import httpx
import msgspec

from probes.checks import certificate
from probes.checks.outcome import WORDS, in_ms, reason_of, spoken_ms, target_of
from probes.messages import ProbeSession
from probes.reasons import Reason, State
from probes.verdict import CheckResult

PINGS = 3


class Api:
    """One deployment over HTTP, with the probe session once it has begun."""

    def __init__(self, base_url: str, client: httpx.AsyncClient) -> None:
        self.base_url = base_url.rstrip("/")
        self.client = client
        self.session: ProbeSession | None = None
        self.clock_skew_s = 0.0
        """How far this machine's clock is ahead of the server's."""

    def waiting(self) -> CheckResult:
        return CheckResult(name="api", state=State.WAITING, target=target_of(self.base_url))

    async def check(self) -> CheckResult:
        """Pings, begins a session, writes a log entry."""
        try:
            trips = [await self._ping() for _ in range(PINGS)]
            response = await self.client.post(f"{self.base_url}/v1/probes/sessions")
            if response.status_code != 201:
                return self._refused(response)
            self.session = msgspec.json.decode(response.content, type=ProbeSession)
            self.clock_skew_s = time.time() - self.session.now  # noqa: TID251 - a wall clock is compared
            log = await self.client.post(f"{self.base_url}/v1/probes/log", json={"event": "probe"})
        except httpx.HTTPError as flaw:
            return self._failed(reason_of(flaw))
        except (msgspec.DecodeError, ValueError):
            return self._failed(Reason.HTTP_STATUS, "something else than Parley answers")
        median_ms = in_ms(sorted(trips)[len(trips) // 2])
        figures = {
            "round_trip_ms": median_ms,
            "clock_skew_s": round(self.clock_skew_s),
            **certificate.expiry(tls_of(response)),
        }
        if log.status_code != 204:
            return CheckResult(
                name="api",
                state=State.WARNING,
                reason=Reason.HTTP_STATUS,
                target=target_of(self.base_url),
                detail=f"the log answers {log.status_code}",
                figures=figures,
            )
        return CheckResult(
            name="api",
            state=State.PASSED,
            target=target_of(self.base_url),
            detail=f"answers in {spoken_ms(median_ms)}",
            figures=figures,
        )

    async def session_of(self, region: str) -> ProbeSession | Reason:
        """A session with the relays of that region, or why there is none."""
        try:
            response = await self.client.post(
                f"{self.base_url}/v1/probes/sessions", json={"region": region}
            )
            if response.status_code == 429:
                return Reason.RATE_LIMITED
            return msgspec.json.decode(response.content, type=ProbeSession)
        except httpx.HTTPError:
            return Reason.SERVER_GONE
        except msgspec.DecodeError:
            return Reason.HTTP_STATUS

    async def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """An authorized request of the session; raises httpx.HTTPError."""
        assert self.session is not None
        headers = {"Authorization": f"Bearer {self.session.token}"}
        return await self.client.request(
            method, f"{self.base_url}{path}", json=body, headers=headers
        )

    async def _ping(self) -> float:
        began = time.monotonic()
        response = await self.client.get(f"{self.base_url}/v1/probes/ping")
        if response.status_code != 200 or "region" not in response.json():
            raise ValueError("not a ping")
        return time.monotonic() - began

    def _refused(self, response: httpx.Response) -> CheckResult:
        if response.status_code == 429:
            return self._failed(Reason.RATE_LIMITED)
        return self._failed(Reason.HTTP_STATUS, f"sessions answers {response.status_code}")

    def _failed(self, reason: Reason, detail: str = "") -> CheckResult:
        return CheckResult(
            name="api",
            state=State.FAILED,
            reason=reason,
            target=target_of(self.base_url),
            detail=detail or WORDS.get(reason, ""),
        )


def tls_of(response: httpx.Response) -> ssl.SSLObject | None:
    """The TLS session that a response came by."""
    stream = response.extensions.get("network_stream")
    found: ssl.SSLObject | None = stream.get_extra_info("ssl_object") if stream else None
    return found
