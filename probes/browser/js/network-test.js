/**
 * OpenTok's network test against a deployment of Parley. Types and documentation in
 * network-test.d.ts.
 * @module
 */

export { ErrorNames } from "./error-names.js";
export { NetworkTest, NetworkTest as default } from "./opentok-test.js";
