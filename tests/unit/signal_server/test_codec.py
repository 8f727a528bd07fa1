"""Text to messages: every message, and that no text raises."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signal_server.wire import codec
from signal_server.wire import messages as m
from signal_server.wire.candidate import CandidateInit
from signal_server.wire.codec import Refusal, decode, encode
from signal_server.wire.codes import ErrorCode

DEPTH = 64
GOOD: list[dict[str, Any]] = [
    {"type": "hello", "token": "t", "room": "r", "data": {"a": 1}, "features": ["gated"]},
    {"type": "hello", "resume": {"session": "s", "secret": "x", "last_seq": 3}},
    {"type": "join", "room": "r", "data": [1]},
    {"type": "leave"},
    {"type": "leave", "room": "r"},
    {"type": "offer", "to": "p", "sdp": "v=0", "negotiation": 1, "pc": "screen"},
    {"type": "answer", "to": "p", "sdp": "v=0"},
    {"type": "pranswer", "to": "p", "sdp": "v=0"},
    {"type": "rollback", "to": "p"},
    {"type": "candidate", "to": "p", "candidate": {"candidate": "c", "sdpMid": "0"}},
    {"type": "candidate", "to": "p", "candidate": None},
    {"type": "candidate", "to": "p", "candidates": [{"candidate": "c"}, None, {}]},
    {"type": "applied", "to": "p", "negotiation": 1},
    {"type": "renegotiate", "to": "p", "reason": "ice_restart"},
    {"type": "state", "to": "p", "state": "connected", "candidate_type": "relay"},
    {"type": "message", "data": None},
    {"type": "message", "to": "p", "data": {"deep": [{}]}},
    {"type": "update", "data": "x"},
    {"type": "ice_servers", "ttl": 60, "region": "eu"},
    {"type": "ping", "t": 1.5},
    {"type": "bye"},
    {"type": "ack", "seq": 7},
    {"type": "refresh", "token": "jwt"},
    {"type": "call_invite", "to": ["ann", "bob"], "media": {"audio": True, "video": True}},
    {"type": "call_ringing", "call": "c_1"},
    {"type": "call_accept", "call": "c_1", "media": {"audio": True}},
    {"type": "call_reject", "call": "c_1", "reason": "busy"},
    {"type": "call_cancel", "call": "c_1"},
    {"type": "call_hangup", "call": "c_1", "reason": "ice_failed"},
]


def test_every_message_has_an_example() -> None:
    tags = {kind.__struct_config__.tag for kind in m.CLIENT_MESSAGES}

    assert tags == {message["type"] for message in GOOD}


@pytest.mark.parametrize("message", GOOD, ids=lambda message: message["type"])
@pytest.mark.parametrize("request_id", [None, 1, -7, 2**53 - 1, "r", "x" * 64])
def test_every_message(message: dict[str, Any], request_id: object) -> None:
    message = {**message, "id": request_id, "from": "forged", "identity": "forged", "seq": 9}
    decoded = decode(json.dumps(message), DEPTH)

    assert not isinstance(decoded, Refusal)
    assert decoded.id == request_id
    again = json.loads(encode(decoded))
    assert "from" not in again
    assert "identity" not in again
    for field, value in message.items():
        if field == "data" or not isinstance(value, dict | list):
            assert field in ("from", "identity", "seq") or again[field] == value


@pytest.mark.parametrize(
    ("text", "candidates", "candidate"),
    [
        ('"candidate":null', msgspec.UNSET, None),
        ('"candidate":{}', msgspec.UNSET, CandidateInit()),
        ('"candidates":[null,{}]', [None, CandidateInit()], msgspec.UNSET),
        ('"pc":"x"', msgspec.UNSET, msgspec.UNSET),
    ],
)
def test_null_is_not_absent(text: str, candidates: object, candidate: object) -> None:
    decoded = decode('{"type":"candidate","to":"p",' + text + "}", DEPTH)

    assert isinstance(decoded, m.Candidate)
    assert (decoded.candidates, decoded.candidate) == (candidates, candidate)


BAD = [
    "",
    " ",
    "null",
    "[]",
    "{}",
    "1",
    "{",
    '{"type":"nope"}',
    '{"type":5}',
    '{"type":null}',
    '{"type":"ping"}x',
    '\ufeff{"type":"ping"}',
    '{"type":"ping","type":"bye"}',
    '{"type":"ping","t":NaN}',
    '{"type":"ping","t":Infinity}',
    '{"type":"ping","t":1e400}',
    '{"type":"ping","t":%s}' % ("9" * 5000),
    '{"type":"ping","t":true}',
    '{"type":"ping","unknown":NaN}',
    '{"type":"message","data":NaN}',
    '{"type":"message","data":[1,]}',
    '{"type":"message","data":"\\x"}',
    '{"type":"message","data":"\\ud800 and more text"}',
    '{"type":"message","data":"\\udc00 and more text"}',
    '{"type":"message","data":"\ud800"}',
    '{"type":"message","data":"line\nbreak"}',
    '{"type":"message"}',
    '{"type":"update"}',
    '{"type":"join"}',
    '{"type":"join","room":""}',
    '{"type":"join","room":"a b"}',
    '{"type":"join","room":"a\\n"}',
    '{"type":"join","room":"\\u007f"}',
    '{"type":"join","room":"%s"}' % ("r" * 129),
    '{"type":"join","room":1}',
    '{"type":"offer","to":"p"}',
    '{"type":"offer","sdp":"v=0"}',
    '{"type":"offer","to":"p","sdp":null}',
    '{"type":"offer","to":"","sdp":"v=0"}',
    '{"type":"offer","to":["p"],"sdp":"v=0"}',
    '{"type":"offer","to":"%s","sdp":"v=0"}' % ("p" * 65),
    '{"type":"offer","to":"p","sdp":"v=0","pc":""}',
    '{"type":"offer","to":"p","sdp":"v=0","pc":"%s"}' % ("p" * 33),
    '{"type":"offer","to":"p","sdp":"v=0","negotiation":0}',
    '{"type":"offer","to":"p","sdp":"v=0","negotiation":-1}',
    '{"type":"offer","to":"p","sdp":"v=0","negotiation":1.5}',
    '{"type":"offer","to":"p","sdp":"v=0","negotiation":2147483648}',
    '{"type":"applied","to":"p"}',
    '{"type":"candidate","to":"p","candidate":"candidate:1"}',
    '{"type":"candidate","to":"p","candidates":{}}',
    '{"type":"candidate","to":"p","candidates":["c"]}',
    '{"type":"renegotiate","to":"p","reason":"boredom"}',
    '{"type":"state","to":"p","state":"great"}',
    '{"type":"state","to":"p","state":"connected","candidate_type":"carrier pigeon"}',
    '{"type":"ice_servers","ttl":0}',
    '{"type":"hello","features":"gated"}',
    '{"type":"hello","features":["f"%s]}' % (',"f"' * 16),
    '{"type":"hello","resume":{}}',
    '{"type":"ping","id":""}',
    '{"type":"ping","id":true}',
    '{"type":"ping","id":1.0}',
    '{"type":"ping","id":[]}',
    '{"type":"ping","id":"%s"}' % ("i" * 65),
    '{"type":"ping","id":9007199254740992}',
    '{"type":"ping","id":%s}' % ("9" * 5000),
]


@pytest.mark.parametrize("text", BAD, ids=lambda text: ascii(text)[:60])
def test_bad_text_is_refused(text: str) -> None:
    refusal = decode(text, DEPTH)

    assert isinstance(refusal, Refusal)
    assert refusal.code is ErrorCode.BAD_REQUEST
    assert refusal.message
    assert refusal.id is None


@pytest.mark.parametrize("request_id", [7, "r7"])
@pytest.mark.parametrize("rest", ['"type":"nope"', '"type":"join","room":1', '"x":1'])
def test_a_refusal_names_the_request_when_it_can(request_id: str | int, rest: str) -> None:
    refusal = decode('{"id":' + json.dumps(request_id) + "," + rest + "}", DEPTH)

    assert isinstance(refusal, Refusal)
    assert refusal.id == request_id


@pytest.mark.parametrize(
    ("data", "is_good"),
    [
        ("[" * 63 + "]" * 63, True),
        ("[" * 64 + "]" * 64, False),
        ('{"a":' * 63 + "1" + "}" * 63, True),
        ('{"a":' * 64 + "1" + "}" * 64, False),
        ("[" * 100_000 + "]" * 100_000, False),
        ("[" * 100_000, False),
        ('{"a":' * 100_000, False),
        ("[" + ",".join(["[]"] * 1000) + "]", True),
        (json.dumps("[" * 1000), True),
        (json.dumps('\\"' + "{" * 1000), True),
        ("]" * 100 + "[" * 100, False),
    ],
    ids=range(11),
)
def test_depth(data: str, is_good: bool) -> None:
    decoded = decode('{"type":"message","data":' + data + "}", DEPTH)

    assert isinstance(decoded, m.Message) is is_good
    if isinstance(decoded, Refusal):
        assert decoded.code is ErrorCode.BAD_REQUEST


def test_depth_beyond_the_interpreter_is_refused_too() -> None:
    text = '{"type":"message","data":' + "[" * 200_000 + "]" * 200_000 + "}"

    assert isinstance(decode(text, 10**6), Refusal)
    assert isinstance(decode('{"type":"nope","x":' + "[" * 5 + "]" * 5 + "}", 10), Refusal)
    assert codec._id_of('{"x":' + "[" * 200_000 + "]" * 200_000 + "}") is None


def test_the_last_of_duplicate_keys_counts() -> None:
    decoded = decode('{"type":"ping","id":1,"id":2,"t":1,"t":2}', DEPTH)

    assert isinstance(decoded, m.Ping)
    assert (decoded.id, decoded.t) == (2, 2)


@pytest.mark.parametrize("data", ['{"a" : [1, 2.50, 1e3]}', "null", '"\\ud83d\\ude00"', "-0.0"])
def test_relayed_payload_is_not_rebuilt(data: str) -> None:
    decoded = decode('{"type":"message","data":' + data + "}", DEPTH)

    assert isinstance(decoded, m.Message)
    relayed = encode(m.RelayedMessage(sender="p", identity="i", data=decoded.data))
    assert b'"data":' + data.encode() in relayed


def test_server_messages_have_unlike_names_and_leave_defaults_out() -> None:
    tags = [kind.__struct_config__.tag for kind in m.SERVER_MESSAGES]

    assert len(set(tags)) == len(tags)
    assert encode(m.Ok(id=1)) == b'{"type":"ok","id":1}'


SHAPED = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=10,
)
FIELDS = sorted({name for kind in m.CLIENT_MESSAGES for name in kind.__struct_fields__})


@given(st.text(st.characters()))
@example("\ud800")
def test_no_text_raises(text: str) -> None:
    assert isinstance(decode(text, DEPTH), Refusal)


@given(
    st.sampled_from([message["type"] for message in GOOD]),
    st.dictionaries(st.sampled_from(FIELDS), SHAPED),
)
def test_no_json_raises(kind: str, fields: dict[str, object]) -> None:
    decoded = decode(json.dumps({**fields, "type": kind}), DEPTH)

    if isinstance(decoded, Refusal):
        assert decoded.code is ErrorCode.BAD_REQUEST
        code = decoded.code
        encode(
            m.Error(
                code=code.value, message=decoded.message, retryable=code.retryable, id=decoded.id
            )
        )
    else:
        encode(decoded)


@given(st.sampled_from(GOOD), st.integers(0, 200), st.text(max_size=3))
def test_no_damaged_message_raises(message: dict[str, Any], at: int, dirt: str) -> None:
    text = json.dumps(message)
    decode(text[:at] + dirt + text[at + 1 :], DEPTH)
