"""The doctor at real coturn servers that are wrong in one way each, and at one that is right."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from certificates import Authority, Pair
from click.testing import CliRunner, Result
from coturn import LOOPBACK, Coturn, close_relay_ports, free_port, has_coturn, start_coturn
from rtc import is_root, isolated_network

from turn_broker.credentials import TurnCredential, mint
from turn_broker.doctor.cli import doctor
from turn_broker.doctor.diagnosis import diagnose
from turn_broker.doctor.report import Finding, Report, Severity
from turn_broker.doctor.run import Examination, Knowledge
from turn_broker.ice_servers import parse_turn_uri
from turn_broker.turn.client import TurnClient
from turn_broker.turn.dialogue import Allocation

pytestmark = [
    pytest.mark.coturn,
    pytest.mark.skipif(not has_coturn(), reason="turnserver is not installed"),
]
needs_root = [
    pytest.mark.root,
    pytest.mark.skipif(not is_root(), reason="needs network namespaces"),
]
SECRET = "coturn-secret"
KNOWN = Knowledge(secrets=(SECRET,))
PUBLIC = "198.41.0.4"
PUBLIC_V6 = "2001:500:2::c"
ELSEWHERE = "198.41.0.9"
QUIET = ("no-software-attribute", "no-rfc5780", "no-stun-backward-compatibility", "no-tcp-relay")
DENIED = (
    "0.0.0.0-0.255.255.255",
    "10.0.0.0-10.255.255.255",
    "100.64.0.0-100.127.255.255",
    "127.0.0.0-127.255.255.255",
    "169.254.0.0-169.254.255.255",
    "172.16.0.0-172.31.255.255",
    "192.168.0.0-192.168.255.255",
    "::1",
    "64:ff9b::-64:ff9b::ffff:ffff",
    "fc00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "fe80::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
)
HARDENED = (*QUIET, "allow-loopback-peers=false", *(f"denied-peer-ip={each}" for each in DENIED))


def examine(
    *urls: str,
    knowledge: Knowledge = KNOWN,
    ahead_s: float = 0,
    timeout_s: float = 5.0,
    tls: ssl.SSLContext | None = None,
) -> Report:
    """The diagnosis; our clock is `ahead_s` ahead of the server's."""
    examination = Examination(
        knowledge, clock=lambda: time.time() + ahead_s, timeout_s=timeout_s, tls=tls
    )
    return diagnose(asyncio.run(examination.observe([parse_turn_uri(url) for url in urls])))


def url_of(coturn: Coturn, transport: str = "udp") -> str:
    return f"turn:{coturn.host}:{coturn.port}?transport={transport}"


def tls_url(coturn: Coturn) -> str:
    return f"turns:{coturn.host}:{coturn.tls_port}?transport=tcp"


def the(report: Report, code: str) -> Finding:
    """The one finding of that code."""
    found = [finding for finding in report.findings if finding.code == code]
    assert len(found) == 1, [finding.code for finding in report.findings]
    return found[0]


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


@pytest.fixture(scope="module")
def plain() -> Iterator[Coturn]:
    """coturn as many run it: on loopback here, with nothing denied."""
    with start_coturn() as coturn:
        yield coturn


# Reachability -----------------------------------------------------------------------------------


def test_a_refused_transport_is_named_and_the_other_works() -> None:
    with start_coturn(extra=["no-tcp"], tcp=False) as coturn:
        report = examine(url_of(coturn), url_of(coturn, "tcp"))

    refused = the(report, "unreachable.refused")
    assert refused.where.endswith("transport=tcp")
    assert the(report, "relays").where.endswith("transport=udp")
    assert report.verdict is Severity.FAILED


def test_refused_silent_and_unknown_are_different_words() -> None:
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as silent:
        silent.bind((LOOPBACK, 0))
        report = examine(
            f"turn:{LOOPBACK}:{free_port()}",
            f"turn:{LOOPBACK}:{silent.getsockname()[1]}",
            "turn:nowhere.invalid",
            timeout_s=1,
        )

    assert codes(report) == {"unreachable.refused", "unreachable.timeout", "unreachable.dns"}
    assert len({finding.words for finding in report.findings}) == 3


def test_a_stun_url_only_has_to_answer(plain: Coturn) -> None:
    report = examine(f"stun:{LOOPBACK}:{plain.port}", f"stun:{LOOPBACK}:{free_port()}")

    assert codes(report) >= {"answers", "unreachable.refused"}


# 401 --------------------------------------------------------------------------------------------


def test_wrong_secret(plain: Coturn) -> None:
    report = examine(url_of(plain), url_of(plain, "tcp"), knowledge=Knowledge(secrets=("another",)))

    assert the(report, "secret_wrong").severity is Severity.FAILED


def test_the_servers_clock_is_ahead(plain: Coturn) -> None:
    found = the(examine(url_of(plain), ahead_s=-7200), "clock_ahead")

    assert found.severity is Severity.FAILED
    assert "1 hour to 1 day" in found.words


def test_the_servers_clock_is_a_little_ahead(plain: Coturn) -> None:
    found = the(examine(url_of(plain), ahead_s=-100), "clock_ahead")

    assert found.severity is Severity.WARNING
    assert "30 s" in found.words


def test_the_servers_clock_is_behind(plain: Coturn) -> None:
    found = the(examine(url_of(plain), ahead_s=4000), "clock_behind")

    assert found.severity is Severity.WARNING
    assert "1 hour" in found.words


def test_clocks_that_agree_are_no_finding(plain: Coturn) -> None:
    assert not codes(examine(url_of(plain))) & {"clock_ahead", "clock_behind"}


def test_another_realm_than_configured(plain: Coturn) -> None:
    known = Knowledge(secrets=("another",), realm="expected.test")
    found = the(examine(url_of(plain), knowledge=known), "realm_differs")

    assert "parley.test" in found.words
    assert "expected.test" in found.words


def test_only_a_retiring_secret_is_there(plain: Coturn) -> None:
    known = Knowledge(secrets=("newest", SECRET))

    assert "secret_outdated" in codes(examine(url_of(plain), knowledge=known))


@pytest.mark.parametrize(
    ("offset_s", "minted_with", "secrets", "code"),
    [
        (-300, SECRET, (), "credential_expired"),
        (-300, SECRET, (SECRET,), "credential_expired"),
        (600, "another", (SECRET,), "credential_wrong"),
        (-300, "another", (SECRET,), "credential_wrong"),
        (600, "another", (), "credential_refused"),
    ],
)
def test_a_given_credential(
    plain: Coturn, offset_s: int, minted_with: str, secrets: tuple[str, ...], code: str
) -> None:
    credential = mint(minted_with, "someone", int(time.time()) + offset_s)
    known = Knowledge(credential=credential, secrets=secrets)

    assert the(examine(url_of(plain), knowledge=known), code).severity is Severity.FAILED


def test_a_name_that_coturn_does_not_know(plain: Coturn) -> None:
    known = Knowledge(credential=TurnCredential("named-user", "password"))

    assert "credential_refused" in codes(examine(url_of(plain), knowledge=known))


def test_a_credential_that_dies_early_there(plain: Coturn) -> None:
    known = Knowledge(credential=mint(SECRET, "someone", int(time.time()) - 10), secrets=(SECRET,))

    assert "clock_ahead" in codes(examine(url_of(plain), knowledge=known, ahead_s=-60))


def test_a_quota_that_is_used_up() -> None:
    with start_coturn(extra=["total-quota=1"]) as coturn:
        uri = parse_turn_uri(url_of(coturn))

        async def while_another_has_it() -> Report:
            async with TurnClient(uri, mint(SECRET, "greedy", int(time.time()) + 600)) as greedy:
                assert isinstance(await greedy.allocate(), Allocation)
                examination = Examination(KNOWN, clock=time.time, timeout_s=5)
                return diagnose(await examination.observe([uri]))

        report = asyncio.run(while_another_has_it())

    assert the(report, "allocate_refused.quota").severity is Severity.WARNING
    assert not codes(report) & {"clock_ahead", "clock_behind", "secret_wrong"}


def test_the_same_credential_is_good_at_another_server(plain: Coturn) -> None:
    with start_coturn(secret="another", host="127.0.0.2") as other:
        report = examine(url_of(plain), url_of(other))

    found = the(report, "secret_wrong")
    assert found.where == url_of(other)
    assert f"good at {url_of(plain)}" in found.words


def test_a_name_that_coturn_calls_bad(plain: Coturn) -> None:
    known = Knowledge(credential=TurnCredential('9999999999:a"b', "password"))

    assert "allocate_refused.bad_request" in codes(examine(url_of(plain), knowledge=known))


# Certificates -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def examine_tls(authority: Authority, pair: Pair) -> Report:
    with start_coturn(certificate=(pair.certificate, pair.key)) as coturn:
        return examine(tls_url(coturn), url_of(coturn), tls=authority.trust())


@pytest.mark.parametrize("case", ["name", "expired", "not_yet_valid", "self_signed", "untrusted"])
def test_a_bad_certificate_is_named(authority: Authority, tmp_path: Path, case: str) -> None:
    pair = {
        "name": lambda: authority.leaf("name", ("turn.other.test",)),
        "expired": lambda: authority.leaf("old", ends=timedelta(hours=-1)),
        "not_yet_valid": lambda: authority.leaf("young", starts=timedelta(days=1)),
        "self_signed": lambda: authority.leaf("self", self_signed=True),
        "untrusted": lambda: Authority(tmp_path).leaf("stranger"),
    }[case]()
    report = examine_tls(authority, pair)

    found = the(report, f"tls_failed.{case}")
    assert found.where.startswith("turns:")
    assert the(report, "relays").where.startswith("turn:")
    if case == "name":
        assert "turn.other.test" in found.words


def test_a_certificate_that_expires_soon(authority: Authority) -> None:
    report = examine_tls(authority, authority.leaf("soon", ends=timedelta(days=3)))

    assert "2 days" in the(report, "certificate_expires_soon").words
    assert {f.where.split(":")[0] for f in report.findings if f.code == "relays"} == {
        "turn",
        "turns",
    }


def test_a_port_without_tls(plain: Coturn, authority: Authority) -> None:
    with contextlib.closing(socket.create_server((LOOPBACK, 0))) as listener:
        port = listener.getsockname()[1]

        async def answer_in_http(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async def look() -> Report:
            async with await asyncio.start_server(answer_in_http, sock=listener):
                examination = Examination(KNOWN, clock=time.time, timeout_s=5)
                url = parse_turn_uri(f"turns:{LOOPBACK}:{port}")
                return diagnose(await examination.observe([url]))

        assert codes(asyncio.run(look())) == {"unreachable.not_tls"}


def test_old_tls_is_named(authority: Authority) -> None:
    pair = authority.leaf("old-tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def look() -> Report:
        async with await asyncio.start_server(swallow, LOOPBACK, 0, ssl=context) as server:
            port = server.sockets[0].getsockname()[1]
            examination = Examination(KNOWN, clock=time.time, timeout_s=1, tls=authority.trust())
            url = parse_turn_uri(f"turns:{LOOPBACK}:{port}")
            return diagnose(await examination.observe([url]))

    report = asyncio.run(look())
    assert "TLSv1.1" in the(report, "tls_old").words
    assert "unreachable.timeout" in codes(report)


# Dangers ----------------------------------------------------------------------------------------


def test_what_many_run(plain: Coturn) -> None:
    report = examine(url_of(plain), url_of(plain, "tcp"))

    assert codes(report) == {
        "open_relay",
        "local_relay",
        "tcp_relay",
        "reflection",
        "version_dangerous",
        "relays",
    }
    words = the(report, "open_relay").words
    for peer in ("10.0.0.1", "169.254.169.254", "192.168.0.1"):
        assert peer in words
    assert "127.0.0.1" in the(report, "local_relay").words
    assert "Coturn-4.6.1" in the(report, "version_dangerous").words


def test_a_relay_for_anybody() -> None:
    with start_coturn(secret="") as coturn:
        report = examine(url_of(coturn), knowledge=Knowledge())

    assert the(report, "no_auth").severity is Severity.FAILED


def test_what_is_hardened_is_quiet_but_cannot_be_proven_on_loopback() -> None:
    with start_coturn(extra=HARDENED) as coturn:
        report = examine(url_of(coturn), url_of(coturn, "tcp"))

    assert codes(report) == {"relay_unproven", "relay_closed"}
    assert report.verdict is Severity.WARNING


def test_a_server_that_sends_clients_elsewhere() -> None:
    with start_coturn(extra=["alternate-server=127.0.0.9:3479"]) as coturn:
        report = examine(url_of(coturn))

    found = the(report, "allocate_refused.try_alternate")
    assert "127.0.0.9 port 3479" in found.words
    assert found.severity is Severity.WARNING


# On a network of its own ------------------------------------------------------------------------


@pytest.fixture
def network() -> Iterator[None]:
    """A namespace whose loopback has addresses that the internet would route to."""
    with isolated_network():
        for address in (f"{PUBLIC}/32", f"{ELSEWHERE}/32", "10.99.7.7/32"):
            _run("ip", "address", "add", address, "dev", "lo")
        _run("ip", "address", "add", f"{PUBLIC_V6}/128", "dev", "lo", "nodad")
        yield


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.usefixtures("network")
class TestPublic:
    pytestmark = needs_root

    def start(self, *extra: str) -> contextlib.AbstractContextManager[Coturn]:
        return start_coturn(host=PUBLIC, extra=(*HARDENED, *extra))

    def both(self, coturn: Coturn) -> Report:
        return examine(url_of(coturn), url_of(coturn, "tcp"))

    def test_a_good_server_is_good(self) -> None:
        with self.start() as coturn:
            result = run_cli(f"turn:{PUBLIC}:{coturn.port}", "--secret", SECRET)

        assert result.exit_code == 0, result.output
        assert result.output.count("works: packets come through") == 2
        assert "Verdict: ok" in result.output

    def test_closed_ports(self) -> None:
        with self.start() as coturn:
            close_relay_ports()
            report = examine(url_of(coturn), timeout_s=1)

        assert the(report, "relay_ports_closed").severity is Severity.FAILED

    def test_hairpin_denied(self) -> None:
        _run(*f"ip route replace local {ELSEWHERE} dev lo src {PUBLIC} table local".split())
        extra = (f"relay-ip={ELSEWHERE}", f"denied-peer-ip={ELSEWHERE}")
        with self.start(*extra) as coturn:
            report = self.both(coturn)

        assert {f.severity for f in report.findings if f.code == "hairpin_denied"} == {
            Severity.WARNING
        }
        assert report.verdict is Severity.WARNING

    def test_a_relayed_address_that_is_private(self) -> None:
        with self.start("external-ip=10.99.7.7") as coturn:
            found = the(examine(url_of(coturn), timeout_s=1), "relay_address_private")

        assert "10.99.7.7" in found.words

    def test_a_relayed_address_of_somebody_else(self) -> None:
        with self.start("external-ip=198.41.0.77") as coturn:
            found = the(examine(url_of(coturn), timeout_s=1), "relay_address_wrong")

        assert "198.41.0.77" in found.words

    def test_the_mapped_address_bypass_of_4_6_1(self) -> None:
        """CVE-2026-27624: 127.0.0.0/8 is denied, ::ffff:127.0.0.1 is not."""
        with self.start(f"relay-ip={PUBLIC_V6}", f"relay-ip={PUBLIC}") as coturn:
            found = the(examine(url_of(coturn)), "open_relay")

        assert "::ffff:127.0.0.1" in found.words
        assert "IPv6 dress" in found.words


# The command ------------------------------------------------------------------------------------


def run_cli(*arguments: str, given: str | None = None) -> Result:
    return CliRunner().invoke(doctor, ["--timeout", "1", *arguments], input=given)


def config_file(folder: Path, coturn: Coturn, secret: str = SECRET) -> Path:
    path = folder / "parley.toml"
    path.write_text(
        f'[turn]\nsecret = "{secret}"\nrealm = "{coturn.realm}"\n'
        f'[[turn.nodes]]\nid = "first"\nurls = ["{url_of(coturn)}"]\n'
    )
    return path


def test_a_node_of_the_configuration(plain: Coturn, tmp_path: Path) -> None:
    config = str(config_file(tmp_path, plain))
    for arguments in (["first", "--config", config], ["--config", config]):
        result = run_cli(*arguments)
        assert result.exit_code == 2
        assert "FAILED" in result.output
        assert "udp works" in result.output


def test_json(plain: Coturn) -> None:
    result = run_cli(url_of(plain), "--secret", "-", "--json", given=SECRET + "\n")
    document = json.loads(result.stdout)

    assert document["report"]["verdict"] == "failed"
    assert {"code", "severity", "where", "words", "advice"} == set(
        document["report"]["findings"][0]
    )
    assert document["observations"]["urls"][0]["software"].startswith("Coturn-4.6.1")
    assert SECRET not in result.output


def test_warnings_alone_exit_with_1() -> None:
    with start_coturn(extra=HARDENED) as coturn:
        result = run_cli(url_of(coturn), "--secret", SECRET)

    assert result.exit_code == 1, result.output
    assert "cannot be told from here" in result.output


def test_without_a_secret_it_says_what_it_cannot_do(plain: Coturn) -> None:
    result = run_cli(url_of(plain))

    assert "only reachability" in result.stderr
    assert "udp answers" in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["node-without-configuration"],
        ["turn:host:22"],
        ["http://host/"],
        ["turn:host", "--username", "only"],
        ["turn:host", "--username", "u", "--credential", "-", "--secret", "-"],
        ["--config", "/nowhere/parley.toml"],
        ["turn:host", "--timeout", "0"],
        [f"turn:host:{port}" for port in range(2000, 2009)],
    ],
)
def test_misuse_exits_with_64(arguments: Sequence[str]) -> None:
    assert run_cli(*arguments).exit_code == (2 if "--timeout" in arguments else 64)
