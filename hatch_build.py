"""Build hook: with PARLEY_COMPILE=1 the hot modules of a wheel are compiled by mypyc.

Off by default, and never in an editable install: plain Python is what is developed and tested
first. It needs a C compiler and Python's headers. The sources stay in the wheel, for tracebacks.
A compiled module may hold no msgspec Struct.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CORE = (
    *("actions", "candidate_buffer", "deadlines", "description", "directed", "ends", "gate"),
    *("lifecycle", "negotiation", "out", "outbox", "rate_limit", "receipts", "room", "rooms"),
    *("sessions", "strand", "switchboard", "tally"),
)
EDGE = ("dispatcher", "framing", "handshake", "server", "socket", "wheel")
MODULES = (
    *(f"signal_server/core/{name}.py" for name in CORE),
    *(f"signal_server/edge/{name}.py" for name in EDGE),
    "signal_server/backplane/memory.py",
)
NEEDS = ("mypy>=2.0", "mypy-extensions>=1.1", "setuptools>=65", "msgspec>=0.20", "websockets>=17.0")
"""mypyc, and what the compiled modules import, for its types."""

_PROGRAM = """
import sys
from mypyc.build import mypycify
from setuptools import Distribution
from setuptools.command.build_ext import build_ext
paths = ["--config-file=pyproject.toml", *sys.argv[1:]]
extensions = mypycify(paths, opt_level="3", debug_level="0", group_name="parley")
command = build_ext(Distribution({"name": "parley-rtc", "ext_modules": extensions}))
command.inplace = True
command.ensure_finalized()
command.run()
"""


def is_asked() -> bool:
    """Whether this build compiles."""
    return os.environ.get("PARLEY_COMPILE") == "1"  # noqa: TID251 - builds have no settings


class CompileHook(BuildHookInterface[Any]):
    """Compiles a copy of the tree, so that the working tree stays plain Python."""

    def dependencies(self) -> list[str]:
        return list(NEEDS) if is_asked() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not is_asked() or version == "editable":
            return
        self._scratch = Path(tempfile.mkdtemp(prefix="parley-build-"))
        root = Path(self.root)
        for package in ("signal_server", "turn_broker"):
            unwanted = shutil.ignore_patterns("*.so", "__pycache__")
            shutil.copytree(root / package, self._scratch / package, ignore=unwanted)
        shutil.copy(root / "pyproject.toml", self._scratch)
        command = [sys.executable, "-c", _PROGRAM, *MODULES]
        subprocess.run(command, cwd=self._scratch, check=True)  # noqa: S603 - our own text
        shutil.rmtree(self._scratch / "build")
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for library in self._scratch.rglob("*.so"):
            build_data["force_include"][str(library)] = str(library.relative_to(self._scratch))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if is_asked() and version != "editable":
            shutil.rmtree(self._scratch)
