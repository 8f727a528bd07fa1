"""Python and JavaScript say the same of any results, not only of those in tests/vectors."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from probes.reasons import SETTLED, Reason
from probes.verdict import CheckResult, verdict_of

ROOT = Path(__file__).parents[2]
RUNS = 3000
PROGRAM = """
import { readFileSync } from "node:fs";
import { verdictOf } from "./probes/browser/js/verdict.js";
const runs = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(runs.map(verdictOf)));
"""
NAMES = ("api", "direct", "devices", "quality-audio", "quality-video")


def some_results(chance: random.Random) -> list[dict[str, Any]]:
    titles: list[dict[str, Any]] = [{"name": name} for name in NAMES if chance.random() < 0.7]
    places: list[str | None] = chance.choice([[None], ["eu", "us"]])
    titles += [
        {"name": "turn", "transport": one, "region": chance.choice(places)}
        for one in ("udp", "tcp", "tls", "udp")
    ]
    titles += [{"name": "ws", "region": one} for one in ("eu", "us", "asia")]
    # Most runs are of few states and reasons: everything at once is one verdict.
    states = chance.choices([one.value for one in SETTLED if one != "aborted"], k=2)
    reasons = chance.choices([one.value for one in Reason], k=3)
    kept = chance.sample(titles, chance.randint(0, len(titles)))
    return [
        {
            **one,
            "state": chance.choice(["aborted", *states * 20]),
            "reason": chance.choice(reasons),
            "target": chance.choice([None, "a.example.org:443", "b.example.org:3478"]),
        }
        for one in kept
    ]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_verdicts_of_any_results_are_the_same() -> None:
    chance = random.Random(5)
    runs = [some_results(chance) for _ in range(RUNS)]
    command = ["node", "--input-type=module", "-e", PROGRAM]
    done = subprocess.run(
        command, cwd=ROOT, input=json.dumps(runs), capture_output=True, text=True, check=True
    )
    texts = set()
    for results, theirs in zip(runs, json.loads(done.stdout), strict=True):
        ours = verdict_of(msgspec.convert(results, list[CheckResult]))
        assert msgspec.to_builtins(ours) == theirs, results
        texts.add(ours.text)
    assert len(texts) > 20, "the runs are too much alike"
