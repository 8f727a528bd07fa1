"""nginx and HAProxy in front of a server: foreground children, impatient with silence."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from coturn import free_port

_DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
_READY_S = 30.0


def _nginx(home: Path, port: int, upstream: str, idle_s: int) -> list[str]:
    """The shipped example without TLS."""
    text = (_DEPLOY / "proxy" / "nginx.conf").read_text()
    text = re.sub(r"\n +ssl_[^;]*;", "", text)
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    writable = "".join(f"{name}_temp_path {home}/{name};\n" for name in temporary)
    for shipped, moved in {
        "/var/log/nginx": str(home),
        "listen 80;": f"listen 127.0.0.1:{free_port()};",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port};",
        "server 127.0.0.1:8080;": f"server {upstream};",
        "proxy_read_timeout 75s;": f"proxy_read_timeout {idle_s}s;",
        "proxy_send_timeout 75s;": f"proxy_send_timeout {idle_s}s;",
        "http {": f"http {{\n{writable}",
        "worker_processes auto;": "worker_processes 1;",
        "worker_rlimit_nofile 20000;": "worker_rlimit_nofile 1024;",
        "worker_connections 10000;": "worker_connections 256;",
    }.items():
        assert shipped in text, f"nginx.conf has no {shipped}"
        text = text.replace(shipped, moved)
    conf = home / "nginx.conf"
    conf.write_text(f"daemon off;\npid {home}/nginx.pid;\n{text}")
    return ["nginx", "-e", "stderr", "-c", str(conf)]


def _haproxy(home: Path, port: int, upstream: str, idle_s: int) -> list[str]:
    conf = home / "haproxy.cfg"
    conf.write_text(
        f"""
global
    maxconn 256
defaults
    mode http
    timeout connect 2s
    timeout client {idle_s}s
    timeout server {idle_s}s
    timeout tunnel {idle_s}s
frontend web
    bind 127.0.0.1:{port}
    default_backend parley
backend parley
    option forwardfor
    server node {upstream}
"""
    )
    return ["haproxy", "-db", "-f", str(conf)]


PROXIES = {"nginx": _nginx, "haproxy": _haproxy}


@contextlib.contextmanager
def start_proxy(program: str, home: Path, upstream: str, idle_s: int) -> Iterator[str]:
    """That proxy in front of `host:port`; ends what is silent for `idle_s`. Yields its URL."""
    port = free_port()
    command = PROXIES[program](home, port, upstream, idle_s)
    log = home / "output"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as child:
        try:
            deadline = time.monotonic() + _READY_S
            while True:
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert child.poll() is None, log.read_text()
                assert time.monotonic() < deadline, f"{program} does not listen"
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            child.terminate()
