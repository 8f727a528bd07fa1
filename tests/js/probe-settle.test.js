import assert from "node:assert/strict";
import { mock, test } from "node:test";

import { pause, ProbeError, Run, secondAfter, settled } from "../../probes/browser/js/settle.js";

/** A clock of our own: `pass` lets time go by, `freeze` lets it go by while nothing runs. */
async function withClock(act) {
  mock.timers.enable({ apis: ["setTimeout"] });
  let nowMs = 1000;
  const clock = mock.method(performance, "now", () => nowMs);
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  const pass = async (ms) => {
    for (let passed = 0; passed < ms; passed += 50) {
      nowMs += 50;
      mock.timers.tick(50);
      await turn();
    }
  };
  try {
    await act({ pass, freeze: (ms) => (nowMs += ms) });
  } finally {
    clock.mock.restore();
    mock.timers.reset();
  }
}

const never = new AbortController().signal;

test("a promise settles once, and takes everything away with it", async () => {
  const target = new EventTarget();
  const released = [];
  let heard = 0;
  const found = await settled(never, ({ resolve, reject, listen, after, release }) => {
    listen(target, "come", () => heard++);
    after(10_000, () => reject(new Error("late")));
    release(() => released.push("one"));
    resolve("first");
    resolve("second");
    reject(new Error("third"));
    listen(target, "come", () => heard++);
    after(1, () => reject(new Error("after the end")));
    release(() => released.push("at once"));
  });
  target.dispatchEvent(new Event("come"));
  assert.deepEqual([found, heard, released], ["first", 0, ["one", "at once"]]);
});

test("what cannot even begin is a rejection that leaves nothing behind", async () => {
  const released = [];
  const broken = settled(never, ({ release }) => {
    release(() => released.push("timer"));
    throw new ProbeError("unsupported");
  });
  await assert.rejects(broken, { reason: "unsupported" });
  assert.deepEqual(released, ["timer"]);
});

test("a signal rejects with its reason, before and meanwhile", async () => {
  const ending = new AbortController();
  const waiting = settled(ending.signal, () => {});
  const pausing = pause(60_000, ending.signal);
  ending.abort(new ProbeError("aborted"));
  await assert.rejects(waiting, { reason: "aborted" });
  await assert.rejects(pausing, { reason: "aborted" });
  await assert.rejects(settled(ending.signal, () => assert.fail("it began")), { reason: "aborted" });
});

test("a deadline stands still with the page", () =>
  withClock(async ({ pass, freeze }) => {
    let isOver = false;
    const waiting = settled(never, ({ resolve, after }) => after(5_000, resolve)).then(() => (isOver = true));
    await pass(1_000);
    freeze(60_000);
    await pass(2_000);
    assert.equal(isOver, false, "a minute in which nothing ran counts as one slow step");
    await pass(1_500);
    await waiting;
  }));

test("a deadline of a hidden tab is late by less than a second", () =>
  withClock(async ({ pass, freeze }) => {
    let isOver = false;
    void settled(never, ({ resolve, after }) => after(5_000, resolve)).then(() => (isOver = true));
    for (let second = 0; second < 5; second++) {
      freeze(500);
      await pass(500);
    }
    assert.equal(isOver, true);
  }));

test("a run ends once, with the first reason", () =>
  withClock(async ({ pass }) => {
    const ending = new AbortController();
    const run = new Run({ signal: ending.signal, limitMs: 1_000 });
    await pass(1_000);
    ending.abort();
    assert.deepEqual([run.ended, run.signal.reason.reason, run.elapsedMs], ["timeout", "timeout", 1_000]);
    run.release();
    const other = new Run({ signal: ending.signal, limitMs: 1_000 });
    assert.deepEqual([other.ended, other.signal.aborted], ["aborted", true]);
    other.release();
  }));

test("seconds in which the page stood still are left out", () => {
  assert.deepEqual([secondAfter(1, 1_004), secondAfter(2, 1_999), secondAfter(2, 8_300)], [2, 3, 9]);
});
