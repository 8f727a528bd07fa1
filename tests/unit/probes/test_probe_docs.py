"""docs/probes.md lists every reason there is."""

from __future__ import annotations

import re
from pathlib import Path

from probes.reasons import Reason

DOCUMENT = Path(__file__).parents[3] / "docs" / "probes.md"


def test_every_reason_is_documented() -> None:
    section = DOCUMENT.read_text("utf-8").split("## Reasons")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `([a-z_]+)` \| .+ \|$", section, re.MULTILINE)
    assert documented == [reason.value for reason in Reason if reason.value]
