"""A board's state as bytes. That nothing is missing in them, the models and simulations show."""

from __future__ import annotations

import hashlib
import os
import pickle
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import pytest
from msgspec import Raw, Struct
from switchboard_driver import Driver, candidate, sdp

from signal_server.core import state
from signal_server.core.inputs import Asked, Opened, Removed, Tell
from signal_server.core.state import StateError, capture, pack, restore, unpack
from signal_server.core.switchboard import Switchboard

PINNED = "aa7e13d9afd610a5d186c1d0a29ab2bd57891fe94e7cf1f2eb7a99461fc81db4"
"""Of the fields of all classes that a state is made of. If they change raise `state.VERSION`, so
that nodes of both versions do not read each other's states, and then change this."""


def busy() -> Driver:
    """Everything that there can be."""
    driver = Driver(resume_window_s=60)
    features = ["gated", "receipts"]
    ann, bob, cid, dan = (
        driver.connect(None, identity=name, features=features, data={"a": 1})
        for name in ("ann", "bob", "cid", "dan")
    )
    for client in (ann, bob, cid):
        client.send("join", room="r", data=[1])
    ann.send("offer", to=bob.peer, sdp=sdp(("0", "u"), ("1", "u")), id=1)
    ann.send("candidate", to=bob.peer, candidates=[candidate(1, "u"), None], id="two")
    ann.send("candidate", to=bob.peer, candidate=candidate(1, "early"))
    ann.send("candidate", to=bob.peer, candidate=candidate(1, None, "7"))
    bob.send("pranswer", to=ann.peer, sdp="encrypted")
    ann.send("message", to=bob.peer, data={}, id=3)
    (call,) = (m["call"] for m in dan.send("call_invite", to=["ann", "eve"], id=1) if "call" in m)
    dan.send("offer", to=call, sdp=sdp(("0", "u")))
    dan.send("candidate", to=call, candidate=candidate(1, "u"))
    fay, hal = driver.connect(None, identity="fay"), driver.connect(None, identity="hal")
    (other,) = (m["call"] for m in fay.send("call_invite", to="hal", id=9) if "call" in m)
    hal.send("call_accept", call=other)
    fay.send("offer", to=hal.peer, sdp=sdp(("0", "v")))
    gus = driver.connect("r", identity="gus")
    driver.feed(Removed(account="AC1", room="r", peer=gus.peer, ban_s=60))
    bob.disconnect()
    return driver


class Listing(state._Unpickler):
    def __init__(self, *of: Any) -> None:
        super().__init__(*of)
        self.classes: dict[str, object] = {}

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        self.classes[f"{module}.{name}"] = found
        return found


def shape_of(found: object) -> list[str]:
    if not isinstance(found, type):
        return []
    if issubclass(found, Struct):
        return list(found.__struct_fields__)
    if issubclass(found, Enum):
        return [member.name for member in found]
    if is_dataclass(found):
        return [each.name for each in fields(found)]
    return list(getattr(found, "_fields", ()) or getattr(found, "__slots__", ()))


@pytest.mark.skipif(not state.IS_PLAIN, reason="compiled classes do not show their fields")
def test_the_format_is_the_fields_of_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    listings: list[Listing] = []

    def listing(*of: Any) -> Listing:
        listings.append(Listing(*of))
        return listings[-1]

    driver = busy()
    octets = capture(driver.board)
    monkeypatch.setattr(state, "_Unpickler", listing)
    restore(Driver(resume_window_s=60).board, octets)
    (found,) = listings
    ours = {
        name: shape_of(each)
        for name, each in found.classes.items()
        if isinstance(each, type) and name.startswith("signal_server")
    }
    text = "\n".join(f"{name}: {' '.join(shape)}" for name, shape in sorted(ours.items()))
    digest = hashlib.sha256(f"{state.VERSION}\n{text}".encode()).hexdigest()
    assert digest == PINNED, f"VERSION {state.VERSION} is now {digest} of\n{text}"


def test_a_state_is_its_boards() -> None:
    driver = busy()
    octets = capture(driver.board)
    driver.move()
    # What is one object before may be two equal ones after, and the other way round.
    assert abs(len(capture(driver.board)) - len(octets)) < 100
    driver.pass_time(1000)
    for client in driver.clients.values():
        client.disconnect()
    driver.pass_time(1000)
    assert driver.is_empty()


def test_what_boards_share_is_not_copied() -> None:
    driver = busy()
    octets = capture(driver.board)
    fresh = Driver(resume_window_s=60).board
    restore(fresh, octets)
    for session in fresh.sessions.by_id.values():
        assert session.policy is fresh.shared()["any_address"]
        for end in session.ends.values():
            assert end.buffer._tally is fresh.tally
            assert end.buffer._limits is fresh.limits


def reduced(function: Callable[..., Any], *arguments: Any) -> bytes:
    class Hostile:
        def __reduce__(self) -> Any:
            return function, arguments

    return pickle.dumps(Hostile(), protocol=5)


def named(module: str, name: str) -> bytes:
    """A pickle of what goes by that name, as protocol 4 and later look it up."""
    texts = b"".join(
        pickle.SHORT_BINUNICODE + bytes([len(each)]) + each.encode() for each in (module, name)
    )
    return pickle.PROTO + b"\x05" + texts + pickle.STACK_GLOBAL + pickle.STOP


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"not a pickle",
        pack(busy().board.containers(), busy().board.shared())[:-10],
        reduced(os.system, "true"),
        reduced(eval, "1"),
        named("signal_server.core.state", "pickle.loads"),
        named("signal_server.core.state", "io.open"),
        named("signal_server.core.state", "pickle"),
        named("signal_server.core.state", "unpack"),
        named("signal_server.core.inputs", "matches"),
        named("signal_server.core.sessions", "Outbox"),
        named("signal_server.edge.dispatcher", "Dispatcher"),
        named("signal_server.core.nowhere", "Nothing"),
        named("builtins", "getattr"),
    ],
)
def test_hostile_bytes_are_refused(octets: bytes) -> None:
    with pytest.raises(StateError):
        unpack(octets)


@pytest.mark.parametrize("value", [1, (), ((), (0, 0)), (("a",), (0, 0)), ([{}] * 20, (0, 0))])
def test_what_is_no_boards_state_is_refused(value: object) -> None:
    board = Driver().board
    with pytest.raises(StateError):
        restore(board, pack(value))


def test_what_only_another_board_shares_is_refused() -> None:
    board = busy().board
    with pytest.raises(StateError):
        unpack(pack(board.limits, {"limits": board.limits}))


def test_inputs_travel_whole() -> None:
    opened = busy_hello()
    again = unpack(pack(opened))
    assert again == opened
    asked = Asked(ticket=1, account="a", question=Tell(room="r", data=Raw(b"[1]")))
    assert unpack(pack(asked)) == asked


def busy_hello() -> Opened:
    """As the driver's clients say it."""
    said: list[Opened] = []

    class Heard(Driver):
        def feed(self, event: Any) -> None:
            said.append(event)
            super().feed(event)

    Heard().connect("r", data={"a": [1]}, replaces={"session": "s", "secret": "x"})
    return said[0]


def test_a_board_is_not_changed_by_being_captured() -> None:
    board: Switchboard = busy().board
    assert capture(board) == capture(board)
