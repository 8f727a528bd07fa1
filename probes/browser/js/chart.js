/**
 * A line over time in inline SVG, with axes and the current value. Colour carries nothing: there is
 * one line to a chart, and its figures stand in words beside it.
 * @module
 */

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 280;
const HEIGHT = 128;
const LEFT = 44;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 24;
const STEPS = [1, 2, 5];

/**
 * The end of an axis: 1, 2 or 5 times a power of ten, and not below `least`.
 * @param {number} most
 * @param {number} least
 */
export function axisEnd(most, least) {
  if (most <= least) return least;
  const power = 10 ** Math.floor(Math.log10(most));
  const step = STEPS.find((one) => one * power >= most);
  return step ? step * power : 10 * power;
}

/**
 * Points of a polyline; a gap where a value is not known begins a new one.
 * @param {{at: number, value: number | null}[]} points
 * @param {{endX: number, endY: number}} axes
 * @returns {string[]} as SVG wants them
 */
export function linesOf(points, { endX, endY }) {
  /** @type {string[][]} */
  const lines = [[]];
  for (const { at, value } of points) {
    if (value === null) lines.push([]);
    else lines.at(-1)?.push(`${place(at / endX, LEFT, WIDTH - RIGHT)},${place(1 - Math.min(value / endY, 1), TOP, HEIGHT - BOTTOM)}`);
  }
  return lines.filter((line) => line.length).map((line) => line.join(" "));
}

/** @param {number} share @param {number} from @param {number} to */
const place = (share, from, to) => Math.round(10 * (from + share * (to - from))) / 10;

/**
 * @typedef {object} Kind
 * @property {string} title
 * @property {(value: number) => string} format with its unit
 * @property {(value: number) => string} tick without
 * @property {string} unit of the ticks
 * @property {number} least end of the axis
 */

export class Chart {
  #kind;
  #svg = drawn("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  #grid = drawn("g", { class: "grid" });
  #line = drawn("g", { class: "line" });
  #now = Object.assign(document.createElement("span"), { className: "now" });
  /** @type {{at: number, value: number | null}[]} */
  #points = [];
  #endX;

  /** @param {Kind} kind @param {number} endX seconds that are expected */
  constructor(kind, endX) {
    this.#kind = kind;
    this.#endX = endX;
    this.#svg.append(this.#grid, this.#line);
    const title = Object.assign(document.createElement("h3"), { textContent: kind.title });
    const unit = Object.assign(document.createElement("span"), { className: "unit", textContent: kind.unit });
    const head = Object.assign(document.createElement("div"), { className: "plot-head" });
    head.append(title, unit, this.#now);
    this.element = Object.assign(document.createElement("div"), { className: "plot-box" });
    this.element.append(head, this.#svg);
    this.clear();
  }

  clear() {
    this.#points = [];
    this.#draw();
  }

  /** @param {number} at seconds @param {number | null} value */
  add(at, value) {
    this.#points.push({ at, value });
    this.#draw();
  }

  #draw() {
    const { least, format, title } = this.#kind;
    const known = this.#points.flatMap(({ value }) => value ?? []);
    const endY = axisEnd(Math.max(0, ...known), least);
    const endX = Math.max(this.#endX, this.#points.at(-1)?.at ?? 0);
    this.#grid.replaceChildren(...this.#axes(endX, endY));
    const lines = linesOf(this.#points, { endX, endY });
    this.#line.replaceChildren(...lines.map((points) => drawn("polyline", { points })), ...marks(lines.at(-1)));
    const last = known.at(-1);
    this.#now.textContent = last === undefined ? "–" : format(last);
    const said = last === undefined ? "nothing measured" : `${format(Math.min(...known))} to ${format(Math.max(...known))}, at the end ${format(last)}`;
    this.#svg.setAttribute("aria-label", `${title} over ${endX} seconds: ${said}`);
  }

  /** @param {number} endX @param {number} endY */
  *#axes(endX, endY) {
    for (const share of [0, 0.5, 1]) {
      const y = place(1 - share, TOP, HEIGHT - BOTTOM);
      yield drawn("path", { d: `M${LEFT} ${y}H${WIDTH - RIGHT}` });
      yield text(this.#kind.tick(share * endY), { x: LEFT - 6, y: y + 4, "text-anchor": "end" });
    }
    for (const share of [0, 0.5, 1]) {
      const x = place(share, LEFT, WIDTH - RIGHT);
      yield text(`${Math.round(share * endX)} s`, { x, y: HEIGHT - 6, "text-anchor": share === 1 ? "end" : share ? "middle" : "start" });
    }
  }
}

/** A dot at the end of the line. @param {string | undefined} points */
function marks(points) {
  const [cx, cy] = points?.split(" ").at(-1)?.split(",") ?? [];
  return cx && cy ? [drawn("circle", { cx, cy, r: 3 })] : [];
}

/** @param {string} content @param {Record<string, string | number>} attributes */
function text(content, attributes) {
  const made = drawn("text", attributes);
  made.textContent = content;
  return made;
}

/** @param {string} tag @param {Record<string, string | number>} attributes */
function drawn(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, `${value}`);
  return made;
}
