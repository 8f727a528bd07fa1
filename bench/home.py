"""What an account's home costs: applying messages, saving and loading a state. CPU, one process.

Nothing but the pure parts runs: entries are encoded, sealed, decoded and applied, parcels encoded
and sealed. It asserts nothing; tests/cost_model.py has the figures of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: E402
from switchboard_driver import sdp  # noqa: E402

from signal_server.backplane.entries import Batch, decode_entry, encode  # noqa: E402
from signal_server.backplane.facts import Facts  # noqa: E402
from signal_server.backplane.replica import Outcome, Replica  # noqa: E402
from signal_server.core import inputs, state  # noqa: E402
from signal_server.core.rules import Rules  # noqa: E402
from signal_server.core.switchboard import Switchboard  # noqa: E402
from signal_server.wire.messages import Hello  # noqa: E402
from signal_server.wire.rates import unhurried  # noqa: E402

LINK = 7
ROUNDS = 5
SEALING = AESGCM(b"k" * 32)
CANDIDATE = (
    "candidate:842163049 1 udp 1677729535 203.0.113.7 {port} typ srflx raddr 192.168.1.5 "
    "rport 46154 generation 0 ufrag EsAw network-cost 999"
)


def fresh() -> Switchboard:
    return Switchboard("n", "r", Rules(rates=unhurried()), 1)


class Bench:
    """One link says everything."""

    def __init__(self) -> None:
        self.replica = Replica("a", fresh(), Facts(10), 64)
        self.bytes = 0
        self._batches = 0

    def say(self, events: list[tuple[int, str] | bytes]) -> Outcome:
        self._batches += 1
        entry = _sealed(encode(Batch(LINK, "n", self._batches, "f" * 16, events)))
        self.bytes += len(entry)
        opened = SEALING.decrypt(entry[:12], entry[12:], b"a")
        outcome = self.replica.apply(decode_entry(opened), 1000)
        _sealed(encode([parcel for _, parcel in outcome.parcels]))
        return outcome


def _sealed(octets: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + SEALING.encrypt(nonce, octets, b"a")


def cpu_us(do: Callable[[], object], times: int) -> float:
    began = time.process_time()
    do()
    return round((time.process_time() - began) / times * 1e6, 1)


def hello(connection: int, pairs: int) -> bytes:
    permit = inputs.Permit(account="a", identity=f"i{connection}")
    admission = inputs.Admission(
        permit=permit, token_life_s=3600, resume_secret="x" * 32, address="192.0.2.1"
    )
    return state.pack(
        inputs.Opened(
            connection=connection,
            admission=admission,
            session=f"s{connection:015}",
            peer=f"p{connection:015}",
            hello=Hello(room=f"room-{connection % pairs}", id="h"),
        )
    )


def candidates(pairs: int, size: int) -> list[list[tuple[int, str] | bytes]]:
    """From every first of a pair to its second, `size` of them in a batch."""
    texts: list[tuple[int, str] | bytes] = []
    for number in range(ROUNDS):
        for pair in range(pairs):
            init = {"candidate": CANDIDATE.format(port=size * 100 + number), "sdpMid": "0"}
            init["usernameFragment"] = "EsAw"
            to, request = f"p{pair + pairs:015}", f"{size}-{number}"
            message = {"type": "candidate", "to": to, "id": request, "ack": 1, "candidate": init}
            texts.append((pair, json.dumps(message)))
    return [texts[at : at + size] for at in range(0, len(texts), size)]


def saving(bench: Bench, sessions: int) -> dict[str, float]:
    octets = b""

    def save() -> None:
        nonlocal octets
        octets = state.capture(bench.replica.board)

    capture_us = cpu_us(save, sessions)
    board = fresh()
    restore_us = cpu_us(lambda: state.restore(board, octets), sessions)
    return {
        "capture_us": capture_us,
        "restore_us": restore_us,
        "bytes": round(len(octets) / sessions),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3000)
    pairs = parser.parse_args().pairs
    bench, sessions = Bench(), 2 * pairs
    hellos = [hello(connection, pairs) for connection in range(sessions)]
    found: dict[str, object] = {
        "hello_us": cpu_us(lambda: [bench.say([each]) for each in hellos], sessions),
        "idle": saving(bench, sessions),
    }
    offer = {"type": "offer", "sdp": sdp(("0", "EsAw")), "id": "o"}
    for pair in range(pairs):
        bench.say([(pair, json.dumps({**offer, "to": f"p{pair + pairs:015}"}))])
    for size in (1, 10, 50):
        batches, before = candidates(pairs, size), bench.bytes
        said = pairs * ROUNDS
        us = cpu_us(lambda batches=batches: [bench.say(batch) for batch in batches], said)  # type: ignore[misc]
        found[f"message_us, {size} in a batch"] = us
        found[f"journal_bytes, {size} in a batch"] = round((bench.bytes - before) / said)
    found["busy"] = saving(bench, sessions)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
