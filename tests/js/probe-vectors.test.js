import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { audioMos, rating, videoMos } from "../../probes/browser/js/mos.js";
import { byAvailable, byReceived } from "../../probes/browser/js/recommend.js";
import { isSteady, windowRate } from "../../probes/browser/js/samples.js";
import { verdictOf } from "../../probes/browser/js/verdict.js";

const vectors = (name) => JSON.parse(readFileSync(new URL(`../vectors/${name}.json`, import.meta.url), "utf8"));
const close = (found, expected) => assert.ok(Math.abs(found - expected) < 0.0051, `${found}, not ${expected}`);
const sampleOf = ([atS, bytes, packets, lost, frames]) => ({ atS, bytes, packets, lost, frames });

test("scores agree with Python's", () => {
  const { audio, video, rating: ratings } = vectors("mos");
  for (const { loss, delay_ms, mos } of audio) close(audioMos(loss, delay_ms), mos);
  for (const { bitrate_bps, width, height, mos } of video) close(videoMos(bitrate_bps, width, height), mos);
  for (const { mos, word } of ratings) assert.equal(rating(mos), word);
  assert.equal(audioMos(0, -2000), 4.5);
  assert.equal(videoMos(1e9, 16, 8), 4.5);
});

test("recommendations agree with Python's", () => {
  const { received, available } = vectors("recommend");
  for (const { bitrate_bps, loss, resolution } of received) {
    assert.deepEqual(byReceived(bitrate_bps, loss), { resolution, frameRate: resolution ? 30 : null });
  }
  for (const { available_bps, simulcast, resolution } of available) {
    assert.equal(byAvailable(available_bps, { simulcast }).resolution, resolution);
  }
});

test("rates agree with Python's", () => {
  const { windows, steady } = vectors("samples");
  for (const { name, samples, window_s, rate } of windows) {
    const found = windowRate(samples.map(sampleOf), window_s);
    assert.deepEqual([found.bitrateBps, found.lossRatio, found.frameRate, found.packets], rate, name);
  }
  for (const { name, bitrates, steady: expected } of steady) {
    let bytes = 0;
    const made = bitrates.length ? [{ atS: 0, bytes: 0, packets: 0, lost: 0 }] : [];
    bitrates.forEach((bitrate, index) => made.push({ atS: index + 1, bytes: (bytes += bitrate), packets: 0, lost: 0 }));
    assert.equal(isSteady(made), expected, name);
  }
});

test("verdicts agree with Python's", () => {
  for (const { name, results, state, text, meaning, asks } of vectors("verdicts")) {
    const verdict = verdictOf(results);
    assert.deepEqual([verdict.state, verdict.text, verdict.asks], [state, text, asks], name);
    if (meaning) assert.equal(verdict.meaning, meaning, name);
  }
});
