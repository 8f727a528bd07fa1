import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";

import * as parley from "../../signal_server/browser/js/parley.js";

const folder = new URL("../../signal_server/browser/", import.meta.url);
const probes = new URL("../../probes/browser/", import.meta.url);
const read = (name, root = folder) => readFileSync(new URL(name, root), "utf8");
/** Pages, each with the root that it lies in. */
const PAGES = /** @type {const} */ ([["index", folder], ["demo", folder], ["diagnostics", probes]]);

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
  for (const [page, root] of PAGES) {
    const html = read(`${page}.html`, root);
    assert.doesNotMatch(html, /<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|https?:/i, page);
    const scripts = readdirSync(new URL("js/", root)).filter((name) => new RegExp(`^${page}(-\\w+)?\\.js$`).test(name));
    assert.ok(scripts.length, page);
    for (const script of scripts) {
      for (const [, id] of read(`js/${script}`, root).matchAll(/byId\("([\w-]+)"\)/g)) {
        assert.ok(html.includes(`id="${id}"`), `${page}.html has no #${id}`);
      }
    }
  }
});

test("every icon that is used exists", () => {
  const icons = new Set([...read("img/icons.svg").matchAll(/<symbol id="([\w-]+)"/g)].map(([, id]) => id));
  for (const [page, root] of PAGES) {
    for (const [, id] of read(`${page}.html`, root).matchAll(/icons\.svg#([\w-]+)/g)) assert.ok(icons.has(id), id);
  }
});
