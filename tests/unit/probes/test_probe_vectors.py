"""The pure parts of the probes against the vectors that bind their JavaScript twins as well."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from probes import mos, recommend, samples
from probes.reasons import EXIT_CODES, SETTLED, Reason, State
from probes.verdict import CheckResult, verdict_of

TESTS = Path(__file__).parents[2]
TWIN = TESTS.parent / "probes/browser/js/reasons.js"


def vectors(name: str) -> Any:
    return json.loads((TESTS / "vectors" / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("row", vectors("mos")["audio"], ids=str)
def test_audio_mos(row: dict[str, float]) -> None:
    assert mos.audio_mos(row["loss"], row["delay_ms"]) == pytest.approx(row["mos"], abs=0.0051)


@pytest.mark.parametrize("row", vectors("mos")["video"], ids=str)
def test_video_mos(row: dict[str, Any]) -> None:
    score = mos.video_mos(row["bitrate_bps"], row["width"], row["height"])
    assert score == pytest.approx(row["mos"], abs=0.0051)


@pytest.mark.parametrize("row", vectors("mos")["rating"], ids=str)
def test_rating(row: dict[str, Any]) -> None:
    assert mos.rating(row["mos"]) == row["word"]


def test_scores_stay_in_their_range() -> None:
    assert mos.audio_mos(0, -2000) == mos.BEST
    assert mos.video_mos(1e9, 16, 8) == mos.BEST


@pytest.mark.parametrize("row", vectors("recommend")["received"], ids=str)
def test_recommendation_by_received(row: dict[str, Any]) -> None:
    found = recommend.by_received(row["bitrate_bps"], row["loss"])
    assert (found.resolution, found.frame_rate) == (
        row["resolution"],
        30 if row["resolution"] else None,
    )


@pytest.mark.parametrize("row", vectors("recommend")["available"], ids=str)
def test_recommendation_by_available(row: dict[str, Any]) -> None:
    found = recommend.by_available(row["available_bps"], simulcast=row["simulcast"])
    assert found.resolution == row["resolution"]


@pytest.mark.parametrize("row", vectors("samples")["windows"], ids=lambda row: row["name"])
def test_rate_over_the_window(row: dict[str, Any]) -> None:
    found = samples.window([samples.Sample(*one) for one in row["samples"]], row["window_s"])
    figures = (found.bitrate_bps, found.loss_ratio, found.frame_rate, found.packets)
    assert figures == pytest.approx(row["rate"])


@pytest.mark.parametrize("row", vectors("samples")["steady"], ids=lambda row: row["name"])
def test_steadiness(row: dict[str, Any]) -> None:
    total = 0
    made = [samples.Sample(0, 0, 0, 0)] if row["bitrates"] else []
    for second, bitrate in enumerate(row["bitrates"], 1):
        total += bitrate
        made.append(samples.Sample(second, total, 0, 0))
    assert samples.is_steady(made) is row["steady"]


@pytest.mark.parametrize("row", vectors("verdicts"), ids=lambda row: row["name"])
def test_verdict(row: dict[str, Any]) -> None:
    verdict = verdict_of(msgspec.convert(row["results"], list[CheckResult]))
    assert (verdict.state, verdict.text) == (row["state"], row["text"])
    assert msgspec.to_builtins(verdict.asks) == row["asks"]
    assert verdict.meaning == row.get("meaning", verdict.meaning) != ""


def test_both_languages_have_the_same_words() -> None:
    source = TWIN.read_text("utf-8")
    states, reasons = (
        re.findall(r'"([a-z_]*)"', source.split(f"export const {name} =")[1].split(");")[0])
        for name in ("STATES", "REASONS")
    )
    assert states == [state.value for state in State]
    assert reasons == [reason.value for reason in Reason]


def test_every_settled_state_has_an_exit_code() -> None:
    assert set(EXIT_CODES) == SETTLED
