"""Proxies that spoil what passes through them.

They listen at SERVER_ADDRESS in the network namespace of the thread that starts them.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from two_networks import SERVER_ADDRESS

from turn_broker.credentials import mint

_READY_S = 10.0
_OF_ONE_HOP = {"connection", "transfer-encoding", "content-length", "date", "server"}
_NGINX = """
daemon off;
pid {home}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen {address}:{port};
        location / {{ proxy_pass http://{address}:{upstream}; proxy_set_header Host $http_host; }}
    }}
}}
"""


@contextlib.contextmanager
def forgetful_nginx(home: Path, port: int, upstream: int) -> Iterator[None]:
    """nginx as its manual begins: it passes no upgrade on."""
    config = home / f"nginx-{port}.conf"
    config.write_text(
        _NGINX.format(home=home, address=SERVER_ADDRESS, port=port, upstream=upstream)
    )
    command = ["nginx", "-e", "stderr", "-c", str(config)]
    log = home / f"nginx-{port}.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as child:
        try:
            deadline = time.monotonic() + _READY_S
            while not _accepts(port):
                assert child.poll() is None, log.read_text()
                assert time.monotonic() < deadline, "nginx does not listen"
                time.sleep(0.02)
            yield
        finally:
            child.terminate()


@contextlib.contextmanager
def frame_swallower(port: int, upstream: int) -> Iterator[None]:
    """HTTP passes and so does an upgrade; of the frames that follow, none reaches the client."""

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client: socket.socket = self.request
            with (
                contextlib.suppress(OSError),
                socket.create_connection((SERVER_ADDRESS, upstream)) as server,
            ):
                threading.Thread(target=_pass_on, args=(client, server), daemon=True).start()
                head = b""
                while b"\r\n\r\n" not in head and (chunk := server.recv(65_536)):
                    head += chunk
                is_upgraded = head.startswith(b"HTTP/1.1 101")
                end = head.find(b"\r\n\r\n") + 4
                client.sendall(head[:end] if is_upgraded else head)
                while chunk := server.recv(65_536):
                    if not is_upgraded:
                        client.sendall(chunk)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with _served(Server((SERVER_ADDRESS, port), Connection)):
        yield


@contextlib.contextmanager
def stale_sessions(port: int, upstream: int, secret: str) -> Iterator[None]:
    """Every probe session comes as if from a cache, when its time was over; the rest passes."""

    class Exchange(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            url = f"http://{SERVER_ADDRESS}:{upstream}{self.path}"
            headers = dict(self.headers)
            asked = urllib.request.Request(url, body or None, headers, method=self.command)
            try:
                answer: Any = urllib.request.urlopen(asked, timeout=30)
            except urllib.error.HTTPError as refusal:
                answer = refusal
            with answer:
                content = answer.read()
                if self.path == "/v1/probes/sessions" and answer.status == 201:
                    content = _aged(content, secret)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in _OF_ONE_HOP:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_DELETE = do_OPTIONS = pass_on  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with _served(ThreadingHTTPServer((SERVER_ADDRESS, port), Exchange)):
        yield


def _aged(content: bytes, secret: str) -> bytes:
    session = json.loads(content)
    session["expires_at"] = session["now"] - 60
    credential = mint(secret, "old", session["expires_at"])
    for servers in session["ice_servers"].values():
        for server in servers:
            server |= {"username": credential.username, "credential": credential.password}
    return json.dumps(session).encode()


@contextlib.contextmanager
def _served(server: socketserver.TCPServer) -> Iterator[None]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((SERVER_ADDRESS, port)) == 0


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65_536):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)
