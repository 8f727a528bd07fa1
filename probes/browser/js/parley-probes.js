/**
 * Tests of a network before a call, against a deployment of Parley. Types and documentation in
 * parley-probes.d.ts. Plain ES modules, no dependency.
 * @module
 */

export { ProbeClient } from "./probe-client.js";
export { verdictOf } from "./verdict.js";
export { ErrorNames, NetworkTest, NetworkTest as default } from "./network-test.js";
