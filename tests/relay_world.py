"""A relay state machine with the clocks in the test's hand; its relayed ports are only numbers."""

from __future__ import annotations

from turn_messages import Caller, code_of, parsed

from turn_broker.credentials import TurnCredential, mint
from turn_broker.relay.allocation import RelayLimits
from turn_broker.relay.allocations import TurnServer
from turn_broker.relay.authentication import Flow, Now, RelayIdentity
from turn_broker.relay.effects import CloseRelay, Effects, OpenRelay, ToClient, ToPeer
from turn_broker.relay.peer_policy import PeerPolicy
from turn_broker.relay.stun import IPV4, IPV6, Attribute, Endpoint, family_of

REALM = "parley.test"
SECRET = "one"
OLD_SECRET = "two"
START = Now(1_000.0, 1_700_000_000.0)
PEER: Endpoint = ("127.0.0.1", 40_000)
LISTENING_PORT = 3478


def flow(port: int = 50_000, transport: str = "udp") -> Flow:
    """A client's address."""
    return Flow(transport, "127.0.0.1", port)


class World:
    """The machine, the time, and the open relayed addresses."""

    def __init__(self, limits: RelayLimits | None = None, policy: PeerPolicy | None = None) -> None:
        identity = RelayIdentity(
            REALM, (SECRET, OLD_SECRET), b"k" * 32, families=frozenset({IPV4, IPV6})
        )
        policy = policy or PeerPolicy(own_ports=frozenset({LISTENING_PORT}))
        self.turn = TurnServer(identity, policy, limits or RelayLimits())
        self.now = START
        self.relays: dict[int, Endpoint] = {}
        self.can_open = True

    def wait(self, seconds: float) -> None:
        self.now = Now(self.now.monotonic + seconds, self.now.unix + seconds)

    def credential(
        self, ttl: int = 86_400, who: str = "alice", secret: str = SECRET
    ) -> TurnCredential:
        return mint(secret, who, int(self.now.unix) + ttl)

    def caller(self, ttl: int = 86_400, who: str = "alice", secret: str = SECRET) -> Caller:
        return Caller(self.credential(ttl, who, secret), REALM)

    def receive(self, raw: bytes, source: Flow) -> Effects:
        """What comes of it, relayed addresses opened and closed on the way."""
        return self.settle(self.turn.received(source, raw, self.now))

    def settle(self, effects: Effects) -> Effects:
        done: list[object] = []
        for effect in effects:
            if isinstance(effect, OpenRelay):
                done.extend(self._open(effect))
            else:
                if isinstance(effect, CloseRelay):
                    del self.relays[effect.allocation]
                done.append(effect)
        return tuple(done)  # type: ignore[arg-type]

    def _open(self, effect: OpenRelay) -> Effects:
        if not self.can_open:
            return self.turn.relay_failed(effect.allocation)
        host = "127.0.0.1" if effect.family == IPV4 else "::1"
        self.relays[effect.allocation] = (host, 20_000 + effect.allocation)
        assert family_of(host) == effect.family
        return self.turn.relay_opened(effect.allocation, self.relays[effect.allocation])

    def answer(self, raw: bytes, source: Flow) -> bytes:
        """The one answer to a request."""
        answers = [e for e in self.receive(raw, source) if isinstance(e, ToClient)]
        assert len(answers) == 1
        assert answers[0].flow == source
        return answers[0].payload

    def challenge(self, caller: Caller, source: Flow) -> None:
        """Gets a nonce."""
        caller.nonce = b""
        nonce = parsed(self.answer(caller.allocate(), source)).first(Attribute.NONCE)
        assert nonce is not None
        caller.nonce = nonce

    def allocated(self, caller: Caller | None = None, source: Flow | None = None) -> Caller:
        """A client with an allocation."""
        caller, source = caller or self.caller(), source or flow()
        self.challenge(caller, source)
        assert code_of(self.answer(caller.allocate(), source)) == 0
        return caller

    def to_peer(self, raw: bytes, source: Flow) -> ToPeer | None:
        """What a data message makes the relay send."""
        effects = self.receive(raw, source)
        assert len(effects) <= 1
        assert not effects or isinstance(effects[0], ToPeer)
        return effects[0] if effects and isinstance(effects[0], ToPeer) else None

    def from_peer(self, payload: bytes, peer: Endpoint = PEER, number: int = 1) -> bytes | None:
        """What a peer's datagram makes the client get."""
        effects = self.turn.peer_received(number, peer, payload, self.now)
        assert len(effects) <= 1
        assert not effects or isinstance(effects[0], ToClient)
        return effects[0].payload if effects and isinstance(effects[0], ToClient) else None
