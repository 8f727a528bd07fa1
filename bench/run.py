"""`make bench`: Parley beside PeerServer, a minimal `ws` relay and a C++ limit, on this machine.

The server on one core, the generator on another, candidates interleaved, medians over rounds.
Quote the ratios per server CPU-second, not the absolute figures: they belong to the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import compared
import report

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
OUTPUT = ROOT / "test-output"
ALONE = ("tokens", "across")
"""Measured by scripts of their own, with nothing but themselves to compare with."""
SETTLE_S = 2
"""Before the memory of idle connections is read: garbage of the joins is gone by then."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Workload:
    """One run of the generator; `arguments` are its own."""

    name: str
    mode: str
    arguments: tuple[str, ...] = ()
    is_second: bool = False
    """The same clients have been there before, and come back with the same tokens."""


@dataclass(frozen=True)
class Bench:
    """Where everything is, and which cores are used."""

    generator: Path
    scratch: Path
    server_core: int
    generator_core: int
    seconds: float
    connections: int

    def measure(self, server: compared.Server, workload: Workload, number: int) -> Result:
        """Start the server, load it, stop it."""
        scratch = self.scratch / str(number)
        with compared.running(server, scratch, self.server_core) as running:
            command = [
                *(str(self.generator), "--mode", workload.mode, "--dialect", server.dialect),
                *("--port", str(running.port), "--pid", str(running.pid)),
                *("--tokens", str(running.tokens), "--seconds", str(self.seconds)),
                *("--connections", str(self.connections), *workload.arguments),
            ]
            command = compared.pinned(command, self.generator_core, compared.may_raise_priority())
            try:
                if workload.is_second:
                    self._load(command, running, workload)
                return self._load(command, running, workload)
            except RuntimeError as failure:
                raise RuntimeError(f"{server.name}, {workload.name}: {failure}") from failure

    def _load(self, command: list[str], running: compared.Running, workload: Workload) -> Result:
        idle = running.memory()
        generator = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert generator.stdin is not None
        assert generator.stdout is not None
        line = generator.stdout.readline()
        result: Result = json.loads(line) if line else {}
        if workload.mode == "idle":
            time.sleep(SETTLE_S)
            used = running.memory() - idle
            result = {"bytes_per_connection": used / self.connections, "empty_bytes": idle}
        generator.communicate("\n")
        if generator.returncode or not line:
            raise RuntimeError("the run failed")
        return result


def build(scratch: Path) -> tuple[Path, Path]:
    """Compile the generator and the C++ limit."""
    if shutil.which("g++") is None:
        sys.exit("g++ is missing: apt-get install g++")
    programs = []
    for name in ("main", "limit"):
        program = scratch / name
        source = BENCH / "generator" / f"{name}.cpp"
        options = ["-O2", "-march=native", "-std=c++17", "-Wall", "-Wextra"]
        subprocess.run(["g++", *options, "-o", str(program), str(source)], check=True)
        programs.append(program)
    return programs[0], programs[1]


def compiled(root: Path, scratch: Path) -> Path | None:
    """The checkout as a compiled package; None where it cannot be built."""
    target = scratch / "compiled"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    command += ["--no-deps", "--target", str(target), str(root)]
    environment = {**os.environ, "PARLEY_COMPILE": "1"}
    if subprocess.run(command, env=environment, check=False).returncode:
        print("the compiled build failed: without it")
        return None
    return target


def candidates(
    limit: Path, root: Path, baseline: Path | None, built: Path | None
) -> list[compared.Server]:
    """Everything that can run here."""
    found = [compared.parley("Parley", root.resolve())]
    if built is not None:
        found.append(compared.parley("compiled", built))
    if baseline is not None:
        found.append(compared.parley("baseline", baseline.resolve()))
    if shutil.which("npm") is None:
        print("npm is not installed: without PeerServer and ws")
    else:
        if not (BENCH / "node_modules" / "peer").is_dir():
            command = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]
            subprocess.run(command, cwd=BENCH, check=True)
        found.append(compared.node("PeerServer", "peerjs", "peerserver.js"))
        found.append(compared.node("ws relay", "room", "ws_relay.js"))
    found.append(compared.limit(limit))
    return found


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of one run")
    parser.add_argument("--connections", type=int, default=5000, help="of storm and idle")
    parser.add_argument("--rate", type=int, default=20000, help="messages per second, open loop")
    parser.add_argument("--only", default="", help="names of workloads, comma-separated")
    parser.add_argument("--servers", default="", help="names of servers, comma-separated")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout that is measured")
    parser.add_argument("--plain", action="store_true", help="without the compiled build")
    parser.add_argument("--baseline", type=Path, help="another checkout of Parley to compare with")
    return parser.parse_args()


def chosen(names: str, given: list[Any]) -> list[Any]:
    """Those that were named; all when none was."""
    wanted = [name.strip().lower() for name in names.split(",") if name.strip()]
    return [one for one in given if not wanted or one.name.lower() in wanted]


def conditions() -> Result:
    """What the figures depend on."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    node = shutil.which("node")
    version = ""
    if node:
        version = subprocess.check_output([node, "--version"], text=True)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "node": version.strip(),
        "priority_raised": compared.may_raise_priority(),
    }


def main() -> None:
    options = read_options()
    named = {name.strip().lower() for name in options.only.split(",") if name.strip()}
    if not named or named - set(ALONE):
        compare(options)
    for name in ALONE:
        if name in named or not (named or options.servers):
            print(f"\n{name}", flush=True)
            command = [sys.executable, str(BENCH / f"{name}.py"), "--seconds", str(options.seconds)]
            subprocess.run(command, check=True)


def compare(options: argparse.Namespace) -> None:
    """Parley beside its peers."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("one core only: server and generator share it, so trust the ratios alone")
    workloads = chosen(
        options.only,
        [
            Workload("relay", "relay"),
            Workload("setup", "setup", ("--pairs", "50")),
            Workload("open", "open", ("--rate", str(options.rate))),
            Workload("storm", "storm"),
            Workload("return", "storm", is_second=True),
            Workload("idle", "idle"),
        ],
    )
    about = conditions()
    runs: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="parley-bench-") as name:
        scratch = Path(name)
        generator, limit = build(scratch)
        bench = Bench(generator, scratch, cores[0], cores[-1], options.seconds, options.connections)
        built = None if options.plain else compiled(options.root.resolve(), scratch)
        present = chosen(options.servers, candidates(limit, options.root, options.baseline, built))
        for workload in workloads:
            for round_number in range(1, options.rounds + 1):
                for server in present:
                    load = os.getloadavg()[0]
                    result = bench.measure(server, workload, len(runs))
                    shown = report.headline(workload.name, result)
                    print(f"{workload.name:6} {round_number}  {server.name:11} {shown}", flush=True)
                    runs.append(
                        {
                            "workload": workload.name,
                            "round": round_number,
                            "server": server.name,
                            "load_average": round(load, 2),
                            **result,
                        }
                    )
    peers = [
        server.name for server in present if server.dialect != "parley" and not server.is_limit
    ]
    table = report.tables(runs, [server.name for server in present], peers)
    print(table)
    OUTPUT.mkdir(exist_ok=True)
    document = {"conditions": about, "runs": runs, "medians": report.medians(runs)}
    (OUTPUT / "bench.json").write_text(json.dumps(document, indent=1) + "\n")
    print(f"\n{about['cpu']}, {about['cores']} cores, {about['date']}; test-output/bench.json")


if __name__ == "__main__":
    main()
