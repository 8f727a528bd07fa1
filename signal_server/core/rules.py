"""Everything an operator may change about the core, apart from the parts it is changed in."""

from __future__ import annotations

from typing import Literal

import msgspec

from signal_server.core.call import CallLimits
from signal_server.wire.limits import Limits
from signal_server.wire.rates import RateLimits


class AddressRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[addresses]`: what of peers' addresses the relay removes for everybody."""

    strip_private: bool = False
    """Candidates that point into somebody's own network."""
    strip_mdns: bool = False
    """The `.local` names of browsers."""


class NegotiationRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[negotiation]`."""

    glare: Literal["passthrough", "arbitrate"] = "passthrough"
    """Whether peers or the relay decide when both offer."""


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """Everything an operator may change about the core."""

    limits: Limits = Limits()
    rates: RateLimits = RateLimits()
    calls: CallLimits = CallLimits()
    addresses: AddressRules = AddressRules()
    negotiation: NegotiationRules = NegotiationRules()
