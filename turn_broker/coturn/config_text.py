"""A hardened turnserver.conf for one node.

Pure. What is not said here is coturn's default; every line was tried on 4.6.1. Peers: nothing that
is not a public unicast address may be reached through the relay, whatever form it is written in.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress

from turn_broker.coturn.settings import IPV6_RELAY_SINCE, CoturnSettings, Version

DENIED_NETWORKS = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "::1/128",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:db8::/32",
    "2002::/16",
    "fc00::/7",
    "fe80::/9",
    "ff00::/8",
)
"""IANA's special-purpose registries: private, loopback, link-local (cloud metadata), documentation,
mapped, NAT64, Teredo, 6to4, multicast. A range that starts at `::` would deny all of IPv4 too."""
CLI_OPTION_SINCE: Version = (4, 10)
"""From here on the console is off unless `cli` is given."""


def console_password_of(settings: CoturnSettings, secret: str) -> str:
    """The configured password, or one that only who knows `turn.secret` can tell."""
    if settings.console_password:
        return settings.console_password
    message = f"parley coturn console {settings.node}"
    return hmac.digest(secret.encode(), message.encode(), hashlib.sha256).hex()[:40]


def turnserver_conf(
    settings: CoturnSettings, *, realm: str, console_password: str, version: Version
) -> str:
    """The file, a secret: it has the console's password in it. Raises CoturnSettingsError."""
    settings.check()
    settings.check_version(version)
    sections = {
        "Who may relay: secrets come from the database, which the agent writes": [
            "use-auth-secret",
            f"realm={realm}",
            "fingerprint",
            "stale-nonce=600",
            f"userdb={settings.database}",
        ],
        "Addresses": _addresses(settings, version),
        "What a client may reach through us": _peers(settings),
        "Limits": [
            f"user-quota={settings.allocations_per_credential}",
            f"total-quota={settings.max_allocations}",
            f"max-bps={settings.max_bytes_per_second}",
            f"bps-capacity={settings.capacity_bytes_per_second}",
            "max-allocate-lifetime=3600",
        ],
        "TLS": _tls(settings),
        "Less surface": [
            "no-rfc5780",
            "no-stun-backward-compatibility",
            "no-software-attribute",
        ],
        "The agent's console and log": [
            *(["cli"] if version >= CLI_OPTION_SINCE else []),
            "cli-ip=127.0.0.1",
            f"cli-port={settings.console_port}",
            f"cli-password={console_password}",
            "cli-max-output-sessions=1000000",
            *([f'redis-statsdb="{settings.statsdb}"'] if settings.statsdb else []),
            f"pidfile={settings.pid_file}",
            f"log-file={settings.log_file}",
            "no-stdout-log",
            "simple-log",
            "verbose",
        ],
    }
    head = (
        "# Written by `parley turn agent`; do not edit. Secret: it holds the console's password.\n"
    )
    return head + "".join(
        f"\n# {title}\n" + "".join(f"{line}\n" for line in lines)
        for title, lines in sections.items()
    )


def _addresses(settings: CoturnSettings, version: Version) -> list[str]:
    relay_ips = settings.relay_ips
    if not relay_ips and version < IPV6_RELAY_SINCE:
        # Without a word coturn relays from every address it finds, IPv6 included.
        relay_ips = [each for each in settings.listening_ips if ":" not in each]
    return [
        *(f"listening-ip={each}" for each in settings.listening_ips),
        f"listening-port={settings.listening_port}",
        *(f"relay-ip={each}" for each in relay_ips),
        *([f"external-ip={settings.external_ip}"] if settings.external_ip else []),
        f"min-port={settings.min_port}",
        f"max-port={settings.max_port}",
    ]


def _peers(settings: CoturnSettings) -> list[str]:
    own = [*settings.relay_ips, *settings.external_ip.split("/")]
    own_networks = [str(ipaddress.ip_network(each)) for each in dict.fromkeys(own) if each]
    lab = settings.allow_loopback_peers
    public_only = [each for each in DENIED_NETWORKS if not (lab and _is_loopback(each))]
    denied = [*public_only, *settings.denied_peers]
    allowed = list(settings.allowed_peers)
    (allowed if settings.relay_to_itself else denied).extend(own_networks)
    return [
        "no-tcp-relay",
        "no-multicast-peers",
        *(["allow-loopback-peers"] if settings.allow_loopback_peers else []),
        *(f"allowed-peer-ip={_range(each)}" for each in allowed),
        *(f"denied-peer-ip={_range(each)}" for each in denied),
    ]


def _is_loopback(network: str) -> bool:
    return ipaddress.ip_network(network).is_loopback


def _range(network: str) -> str:
    """4.6.1 reads no prefixes, only a-b."""
    net = ipaddress.ip_network(network)
    first, last = net.network_address, net.broadcast_address
    return str(first) if first == last else f"{first}-{last}"


def _tls(settings: CoturnSettings) -> list[str]:
    if not settings.certificate:
        return ["no-tls", "no-dtls"]
    return [
        "no-dtls",
        f"tls-listening-port={settings.tls_listening_port}",
        f"cert={settings.certificate}",
        f"pkey={settings.private_key}",
        "no-tlsv1",
        "no-tlsv1_1",
    ]
