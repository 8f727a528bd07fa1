"""One attempt to deliver a webhook: a signed POST (Standard Webhooks), judged by its status alone.

Redirects are not followed, cookies and proxies from the environment are ignored, and of the answer
no more than a little is read. It does not know queues or retries. Importing it imports httpx, so
that is left until there is an endpoint.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import certifi
import httpx
from standardwebhooks import Webhook

from signal_server import clock
from signal_server.edge.webhook_queue import Outcome, WebhookEndpoint

_READ_BYTES = 64 * 1024
"""Of an answer's body; reading it all lets the connection be used again."""
_IDLE_CONNECTIONS = 8


class WebhookPost:
    """See the module's text; an instance is the `Post` of `edge.webhooks`."""

    def __init__(
        self,
        endpoints: Iterable[WebhookEndpoint],
        *,
        timeout_s: float,
        unix: Callable[[], float] = clock.unix,
    ) -> None:
        self._signers = {
            secret: Webhook(secret) for endpoint in endpoints for secret in endpoint.secrets
        }
        self._timeout_s = timeout_s
        self._unix = unix
        trusted = ssl.create_default_context()
        trusted.load_verify_locations(certifi.where())
        # Not httpx's client: it keeps cookies and logs whole URLs.
        self._transport = httpx.AsyncHTTPTransport(
            verify=trusted,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=_IDLE_CONNECTIONS),
        )

    async def __call__(self, endpoint: WebhookEndpoint, message_id: str, body: bytes) -> Outcome:
        """Sign and send; never raises for anything the other side does."""
        request = httpx.Request(
            "POST", endpoint.url, headers=self._headers(endpoint, message_id, body), content=body
        )
        outcome: Outcome | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._transport.handle_async_request(request)
                try:
                    outcome = self._judge(response)
                    await _read_some(response)
                finally:
                    await response.aclose()
        except TimeoutError:
            return outcome or Outcome(reason="timeout")
        except httpx.HTTPError:
            return outcome or Outcome(reason="unreachable")
        return outcome

    def _headers(self, endpoint: WebhookEndpoint, message_id: str, body: bytes) -> dict[str, str]:
        now = datetime.fromtimestamp(int(self._unix()), UTC)
        text = body.decode()
        signatures = [
            self._signers[secret].sign(message_id, now, text) for secret in endpoint.secrets
        ]
        return {
            "content-type": "application/json",
            "user-agent": "parley-webhooks/1",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }

    def _judge(self, response: httpx.Response) -> Outcome:
        status = response.status_code
        return Outcome(
            status=status,
            reason=f"status_{status // 100}xx",
            retry_after_s=_retry_after(response.headers.get("retry-after"), self._unix()),
        )

    async def aclose(self) -> None:
        """Close the idle connections."""
        await self._transport.aclose()


async def _read_some(response: httpx.Response) -> None:
    size = 0
    async for chunk in response.aiter_raw():
        size += len(chunk)
        if size > _READ_BYTES:
            return


def _retry_after(value: str | None, now: float) -> float | None:
    """Seconds, from a number or an HTTP date (RFC 9110 section 10.2.3)."""
    if not value:
        return None
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
