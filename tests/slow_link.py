"""A link that takes time: `python slow_link.py NAMESPACE DEVICE DELAY_MS`, which says `ready`.

It opens a TUN device here and one in the namespace, and carries packets between them, each after
the delay, until it is killed. The kernel here has no netem.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque

_TUNSETIFF, _TUN_WITHOUT_HEADER = 0x400454CA, 0x1001
_CLONE_NEWNET = 0x40000000
_MTU = 1400
_libc = ctypes.CDLL(None, use_errno=True)


def open_device(name: str) -> int:
    """A TUN device that is up, in this thread's namespace."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH", name.encode(), _TUN_WITHOUT_HEADER))
    subprocess.run(["ip", "link", "set", name, "up", "mtu", str(_MTU)], check=True)
    return device


def enter(namespace: str) -> None:
    """Move this thread there for good."""
    handle = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if _libc.setns(handle, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    os.close(handle)


def carry(near: int, far: int, delay_s: float) -> None:
    """Each packet of one device comes out of the other; never returns."""
    others = {near: far, far: near}
    waiting: deque[tuple[float, int, bytes]] = deque()
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, device, packet = waiting.popleft()
            os.write(device, packet)
        timeout_s = max(0.0, waiting[0][0] - now) if waiting else None
        for device in select.select(list(others), [], [], timeout_s)[0]:
            packet = os.read(device, 65_536)
            waiting.append((time.monotonic() + delay_s, others[device], packet))


def main(namespace: str, name: str, delay_ms: str) -> None:
    near = open_device(name)
    enter(namespace)
    far = open_device(name)
    print("ready", flush=True)  # noqa: T201
    carry(near, far, float(delay_ms) / 1000)


if __name__ == "__main__":
    main(*sys.argv[1:])
