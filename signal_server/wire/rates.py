"""How fast a client may talk: per class of message and per scope, each a rate and a burst.

The defaults let an 8-peer mesh set itself up at once, twice over. Operators change them under
`[rates.<scope>]` in parley.toml; clients see their session's in `welcome.limits`. A scope without a
class does not limit it: in particular a room never limits `control`, so that nobody's offers can
starve somebody else's answer or hangup. It does not know which message belongs to which class.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`burst` at once, then `per_s` each second; candidates count one by one."""

    per_s: Annotated[float, Meta(gt=0, le=1e6)]
    burst: Annotated[float, Meta(ge=1, le=1e6)]


class SessionRates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[rates.session]`: one session, over all its connections."""

    control: Rate = Rate(50, 200)
    candidate: Rate = Rate(200, 800)
    message: Rate = Rate(100, 400)
    room: Rate = Rate(5, 40)
    ice: Rate = Rate(0.5, 10)
    call: Rate = Rate(2, 20)
    ping: Rate = Rate(20, 100)


class IdentityRates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[rates.identity]`: all sessions of one identity of an account."""

    control: Rate = Rate(200, 1000)
    candidate: Rate = Rate(1000, 4000)
    message: Rate = Rate(400, 2000)
    room: Rate = Rate(20, 200)
    ice: Rate = Rate(2, 50)
    call: Rate = Rate(5, 50)


class AddressRates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[rates.address]`: everybody behind one IPv4 address or IPv6 /64, such as an office."""

    control: Rate = Rate(2000, 20_000)
    candidate: Rate = Rate(10_000, 80_000)
    message: Rate = Rate(5000, 20_000)
    room: Rate = Rate(200, 4000)
    ice: Rate = Rate(50, 1000)
    call: Rate = Rate(50, 1000)
    ping: Rate = Rate(5000, 20_000)


class RoomRates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[rates.room]`: everybody in one room; what is sent to all is paid for by all."""

    candidate: Rate = Rate(5000, 40_000)
    message: Rate = Rate(500, 2000)
    room: Rate = Rate(50, 500)


class RateLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[rates]`."""

    session: SessionRates = SessionRates()
    identity: IdentityRates = IdentityRates()
    address: AddressRates = AddressRates()
    room: RoomRates = RoomRates()
    tracked: Annotated[int, Meta(ge=16, le=10_000_000)] = 131_072
    """Keys remembered per scope; beyond them the one looked at longest ago is forgotten."""

    def shown(self) -> dict[str, float]:
        """What a client is told in `welcome.limits`."""
        figures: dict[str, float] = {}
        for field in msgspec.structs.fields(SessionRates):
            rate: Rate = getattr(self.session, field.name)
            figures[f"{field.name}_per_s"] = rate.per_s
            figures[f"{field.name}_burst"] = rate.burst
        return figures


def unhurried() -> RateLimits:
    """Rates that nobody reaches, for load tests."""
    fast = Rate(1e6, 1e6)

    def every(scope: type[msgspec.Struct]) -> dict[str, Rate]:
        return {field.name: fast for field in msgspec.structs.fields(scope)}

    return RateLimits(
        session=SessionRates(**every(SessionRates)),
        identity=IdentityRates(**every(IdentityRates)),
        address=AddressRates(**every(AddressRates)),
        room=RoomRates(**every(RoomRates)),
    )
