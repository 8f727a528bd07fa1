"""What the socket tests share: the echo server as a child process, and a client of raw bytes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("socket_echo_server.py")
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
CONTINUE, LAST = 0x00, 0x80
PATIENCE_S = 20.0


def masked(first: int, payload: bytes = b"", mask: bytes = b"\x12\x34\x56\x78") -> bytes:
    """A client frame whose first byte is `first`."""
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", first, 128 | length)
    elif length < 65536:
        head = struct.pack("!BBH", first, 254, length)
    else:
        head = struct.pack("!BBQ", first, 255, length)
    body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return head + mask + body


def closing(code: int, reason: bytes = b"") -> bytes:
    return masked(CLOSE, struct.pack("!H", code) + reason)


def request(
    path: str = "/echo", *extra: str, replace: dict[str, str | None] | None = None
) -> bytes:
    """An opening handshake; `replace` changes fields, or drops them with None."""
    fields: dict[str, str | None] = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    fields |= replace or {}
    lines = [f"GET {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([*lines, *extra, "", ""]).encode("latin-1")


def eventually(condition: Callable[[], Any], within_s: float = PATIENCE_S) -> None:
    """Poll a condition of another process until it holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "condition did not come true"
        time.sleep(0.01)


class RawClient:
    """A blocking TCP connection that knows just enough to read frames."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.tcp = socket.socket()
        if receive_buffer is not None:
            self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.tcp.settimeout(PATIENCE_S)
        self.tcp.connect(("127.0.0.1", port))
        self.tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pending = b""

    def send(self, data: bytes) -> None:
        self.tcp.sendall(data)

    def _more(self) -> bool:
        try:
            data = self.tcp.recv(1 << 16)
        except ConnectionResetError:
            return False
        self.pending += data
        return bool(data)

    def take(self, length: int) -> bytes:
        while len(self.pending) < length:
            if not self._more():
                raise EOFError(self.pending)
        taken, self.pending = self.pending[:length], self.pending[length:]
        return taken

    def head(self) -> tuple[int, dict[str, str]]:
        """Status and header fields of one HTTP answer."""
        while b"\r\n\r\n" not in self.pending:
            if not self._more():
                raise EOFError(self.pending)
        raw, _, self.pending = self.pending.partition(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, value in pairs}

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """One whole HTTP answer with a Content-Length."""
        status, fields = self.head()
        return status, fields, self.take(int(fields.get("content-length", "0")))

    def upgrade(self, path: str = "/echo", *extra: str) -> RawClient:
        self.send(request(path, *extra))
        status, _ = self.head()
        assert status == 101
        return self

    def frame(self) -> tuple[int, bytes]:
        first, length = self.take(2)
        assert length < 128, "a server must not mask"
        if length == 126:
            (length,) = struct.unpack("!H", self.take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.take(8))
        return first, self.take(length)

    def text(self) -> str:
        first, payload = self.frame()
        assert first == TEXT, (first, payload)
        return payload.decode()

    def close_code(self) -> int | None:
        """The next frame must be a close frame; its code."""
        first, payload = self.frame()
        assert first == CLOSE, (first, payload)
        return int.from_bytes(payload[:2], "big") if payload else None

    def ended(self) -> bytes:
        """Wait for the end of the connection; what came before it."""
        while self._more():
            pass
        left, self.pending = self.pending, b""
        return left

    def order(self, **order: Any) -> None:
        self.send(masked(TEXT, b"!" + json.dumps(order).encode()))

    def abort(self) -> None:
        """Leave with a reset."""
        self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.tcp.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.tcp.close()


@dataclass
class EchoServer:
    """A running child process."""

    port: int
    process: subprocess.Popen[str]
    log_file: IO[str]

    def log(self) -> str:
        """What it wrote to standard error so far; the file offset is the child's."""
        return os.pread(self.log_file.fileno(), 1 << 22, 0).decode()

    def connect(self, *, receive_buffer: int | None = None) -> RawClient:
        return RawClient(self.port, receive_buffer=receive_buffer)

    def open(self, path: str = "/echo", *extra: str) -> RawClient:
        return self.connect().upgrade(path, *extra)

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=10) as reply:
            return dict(json.load(reply))


@contextlib.contextmanager
def echo_server(**options: Any) -> Iterator[EchoServer]:
    """Start, wait until ready, and see it exit cleanly."""
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            [sys.executable, str(SERVER), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            if line:
                yield EchoServer(json.loads(line)["port"], process, log)
        finally:
            process.stdin.close()
            try:
                status = process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            log.seek(0)
            errors = log.read()
        assert line, errors
        assert status == 0, errors
        assert options.get("errors_expected") or "Traceback" not in errors, errors
