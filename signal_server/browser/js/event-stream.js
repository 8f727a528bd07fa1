/**
 * Reads a stream of server-sent events (WHATWG HTML, section 9.2.6): EventSource itself can send no
 * Authorization header. Only `event` and `data` matter here.
 * @module
 */

const LONGEST = 1_000_000;

/**
 * @param {ReadableStream<Uint8Array>} body
 * @param {() => void} heard called for everything that arrives, comments included
 * @returns {AsyncGenerator<{name: string, data: string}, void>}
 */
export async function* eventsOf(body, heard) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let name = "";
  /** @type {string[]} */
  const data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      rest += decoder.decode(value, { stream: true });
      if (rest.length > LONGEST) throw new Error("an event is too long");
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop() ?? "";
      for (const line of lines) {
        const [field = "", value = ""] = parts(line);
        if (field === "data") data.push(value);
        if (field === "event") name = value;
        if (line !== "") continue;
        if (data.length) yield { name, data: data.splice(0).join("\n") };
        name = "";
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * @param {string} line
 * @returns {string[]} field and value
 */
function parts(line) {
  const at = line.indexOf(":");
  return at < 0 ? [line, ""] : [line.slice(0, at), line.slice(at + 1).replace(/^ /, "")];
}
