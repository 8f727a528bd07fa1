"""Sockets on free ports: one number for the UDP and TCP listeners, and relayed addresses."""

from __future__ import annotations

import secrets
import socket

_LISTENER_BUFFER = 1 << 20
_RELAY_BUFFER = 1 << 18
_ATTEMPTS = 32
_MAX_WALK = 1_024


def bind_listeners(host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket on the same port number; OSError when there is none."""
    for attempt in range(_ATTEMPTS):
        tcp = _socket(host, socket.SOCK_STREAM)
        udp = _socket(host, socket.SOCK_DGRAM, _LISTENER_BUFFER)
        try:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((host, port))
            udp.bind((host, tcp.getsockname()[1]))
            tcp.listen(128)
        except OSError:
            tcp.close()
            udp.close()
            if port or attempt == _ATTEMPTS - 1:
                raise
            continue
        return udp, tcp
    raise AssertionError("unreachable: the last attempt raises")


def bind_relay(host: str, ports: range | None, *, even: bool) -> socket.socket | None:
    """A UDP socket on a free, unpredictable port of the range (or any), if one is found."""
    for port in _candidates(ports, even=even):
        try:
            relayed = _socket(host, socket.SOCK_DGRAM, _RELAY_BUFFER)
        except OSError:
            return None
        try:
            relayed.bind((host, port))
        except OSError:
            relayed.close()
            continue
        if even and relayed.getsockname()[1] % 2:
            relayed.close()
            continue
        return relayed
    return None


def _candidates(ports: range | None, *, even: bool) -> list[int]:
    if ports is None:
        return [0] * (_ATTEMPTS if even else 1)
    start = secrets.randbelow(len(ports))
    return [ports[(start + step) % len(ports)] for step in range(min(len(ports), _MAX_WALK))]


def _socket(host: str, kind: socket.SocketKind, buffer: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, kind)
    sock.setblocking(False)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    return sock
