import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

import * as parley from "../../signal_server/browser/js/parley.js";

const folder = new URL("../../signal_server/browser/", import.meta.url);
const read = (name) => readFileSync(new URL(name, folder), "utf8");

/** A module of js/ and all that it imports. */
function library(name, found = new Set()) {
  if (found.has(name)) return found;
  found.add(name);
  for (const [, next] of read(`js/${name}`).matchAll(/from "\.\/([\w.-]+)"/g)) library(next, found);
  return found;
}

test("modules are short", () => {
  for (const name of readdirSync(new URL("js/", folder)).filter((name) => name.endsWith(".js"))) {
    const lines = read(`js/${name}`).split("\n").length;
    assert.ok(lines <= 400, `${name} has ${lines} lines`);
  }
});

test("the types declare exactly what the module exports", () => {
  const declared = [...read("js/parley.d.ts").matchAll(/^export (?:class|function) (\w+)/gm)].map(([, name]) => name);
  assert.deepEqual(declared.sort(), Object.keys(parley).sort());
});

test("the library needs no DOM", () => {
  assert.equal(typeof globalThis.document, "undefined");
  for (const name of library("parley.js")) {
    assert.doesNotMatch(read(`js/${name}`), /\b(document|window|navigator|localStorage)\b/, name);
  }
});

test("pages have no inline script or style, and every element that a script looks for", () => {
  for (const [page, ...scripts] of [
    ["index", "index"],
    ["demo", "demo", "demo-panel", "demo-people", "demo-stage"],
    ["diagnostics", "diagnostics"],
  ]) {
    const html = read(`${page}.html`);
    assert.doesNotMatch(html, /<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|https?:/i, page);
    for (const script of scripts) {
      for (const [, id] of read(`js/${script}.js`).matchAll(/byId\("([\w-]+)"\)/g)) {
        assert.ok(html.includes(`id="${id}"`), `${page}.html has no #${id}`);
      }
    }
  }
});

test("every icon that is used exists", () => {
  const icons = new Set([...read("img/icons.svg").matchAll(/<symbol id="([\w-]+)"/g)].map(([, id]) => id));
  for (const page of ["index", "demo", "diagnostics"]) {
    for (const [, id] of read(`${page}.html`).matchAll(/icons\.svg#([\w-]+)/g)) assert.ok(icons.has(id), id);
  }
});
