/**
 * What the pages share: finding elements, copying, tokens, and words.
 * @module
 */

const TOKEN_MS = 5_000;
const SPRITE = "/img/icons.svg";

/**
 * @param {string} id
 * @returns {any} the element; the pages and their scripts ship together
 */
export const byId = (id) => document.getElementById(id);

export const signalUrl = () => `${location.origin.replace(/^http/, "ws")}/v1/signal`;

/**
 * An access token: from the address (`#token=`), else from a development server.
 * @param {string} identity
 * @param {string} room
 * @returns {Promise<string>}
 */
export async function accessToken(identity, room) {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) return given;
  const signal = AbortSignal.timeout(TOKEN_MS);
  const answer = await fetch(`/dev/token?${new URLSearchParams({ identity, room })}`, { signal });
  if (answer.ok) return (await answer.json()).access_token;
  throw new Error("This server gives tokens only to signed-in users. Open the page with a link that carries one.");
}

/**
 * Letters and digits that are hard to confuse when read aloud.
 * @param {number} length
 * @returns {string}
 */
export function randomName(length) {
  const letters = "abcdefghjkmnpqrstuvwxyz23456789";
  const bytes = crypto.getRandomValues(new Uint8Array(length));
  return Array.from(bytes, (byte) => letters[byte % letters.length]).join("");
}

/**
 * @param {string} name of a symbol in /img/icons.svg
 * @returns {SVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
  setIcon(svg, name);
  return svg;
}

/**
 * @param {Element} svg
 * @param {string} name
 */
export function setIcon(svg, name) {
  const isHeld = document.getElementById(`icon-${name}`) !== null;
  svg.firstElementChild?.setAttribute("href", isHeld ? `#icon-${name}` : `${SPRITE}#${name}`);
}

/** Takes the icons into the page: a server that goes away must not take the crosses along. */
export async function holdIcons() {
  const answer = await fetch(SPRITE).catch(() => null);
  if (!answer?.ok) return;
  const sprite = new DOMParser().parseFromString(await answer.text(), "image/svg+xml").documentElement;
  for (const symbol of sprite.querySelectorAll("symbol")) symbol.id = `icon-${symbol.id}`;
  sprite.setAttribute("hidden", "");
  document.body.append(sprite);
}

/**
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {(Node | string)[]} [children]
 * @returns {any}
 */
export function element(tag, properties = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/**
 * A button that copies, and says so for a moment.
 * @param {HTMLButtonElement} button
 * @param {() => string} text
 * @param {HTMLInputElement} [source] selected when copying is not allowed
 */
export function copies(button, text, source) {
  const label = /** @type {HTMLElement} */ (button.querySelector("span"));
  const symbol = /** @type {Element} */ (button.querySelector(".icon"));
  const before = label.textContent;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      label.textContent = "Copied";
      setIcon(symbol, "check");
    } catch {
      source?.select();
      label.textContent = source ? "Press Ctrl+C" : "Select it to copy";
    }
    setTimeout(() => {
      label.textContent = before;
      setIcon(symbol, "copy");
    }, 2000);
  });
}

/** @param {number} milliseconds */
export const inMs = (milliseconds) => `${Math.round(milliseconds)} ms`;

/**
 * "directly over UDP", "through the relay over TCP"
 * @param {import("./parley.d.ts").Path} path
 */
export function wayOf({ isRelayed, relayProtocol, protocol }) {
  const carrier = ((isRelayed && relayProtocol) || protocol).toUpperCase();
  return `${isRelayed ? "through the relay" : "directly"} over ${carrier}`;
}
