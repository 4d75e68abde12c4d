// One channel over time: a line of means, and the band between lowest and highest behind it.

import { clean, el, numberText, quoted, setText, svg, valueText } from "./dom.js";
import { agoText, clockText } from "./time.js";

const HEIGHT = 112;
const TOP = 8;
const AXIS = 20;
const LEFT = 58;
const RIGHT = 10;
// Steps of the axis of time, in seconds: what clocks and calendars are divided by.
const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
// A line is broken where this many steps, and of its own distances, have nothing.
const BREAK = 4;

export class Plot {
  #width = 0;
  #onCursor;

  /** `onCursor(fraction)`: of the width, where somebody points; null: nowhere. */
  constructor(name, onCursor) {
    this.name = clean(name, 64);
    this.#onCursor = onCursor;
    this.value = el("span", { class: "value" });
    this.when = el("span", { class: "when" });
    this.grid = svg("g", { class: "grid" });
    this.band = svg("path", { class: "band" });
    this.line = svg("path", { class: "line" });
    this.dot = svg("circle", { class: "mark", r: 3.5 });
    this.rule = svg("line", { class: "rule", y1: TOP - 4, y2: HEIGHT });
    this.svg = svg("svg", { role: "img", on: { pointermove: (event) => this.#point(event), pointerleave: () => this.#onCursor(null) } },
      this.grid, this.band, this.line, this.rule, this.dot);
    this.node = el("figure", { class: "plot" },
      el("figcaption", {}, el("span", { class: "channel" }, quoted(name, 64)), this.value, this.when),
      this.svg);
  }

  #point(event) {
    if (event.pointerType === "touch" && event.type !== "pointermove") return;
    const box = this.svg.getBoundingClientRect();
    const fraction = (event.clientX - box.left - LEFT) / (box.width - LEFT - RIGHT);
    this.#onCursor(fraction < 0 || fraction > 1 ? null : fraction);
  }

  update({ points, start, end, stepMs, cursorMs, newest, isLast }) {
    const width = Math.max(240, Math.round(this.node.clientWidth) || 600);
    const height = HEIGHT + (isLast ? AXIS : 6);
    if (width !== this.#width || this.svg.getAttribute("height") !== String(height)) {
      this.#width = width;
      this.svg.setAttribute("width", width);
      this.svg.setAttribute("height", height);
      this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    }
    const scale = axisOf(points);
    const x = (t) => LEFT + ((t - start) / (end - start)) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (HEIGHT - TOP) * (1 - (value / scale.unit - scale.low) / (scale.high - scale.low));
    this.#drawGrid(scale, x, y, start, end, width, isLast);
    const runs = runsOf(points, stepMs);
    const place = (t, value) => `${x(t).toFixed(1)},${y(value).toFixed(1)}`;
    this.line.setAttribute("d", runs.map((run) => lineOf(run, place)).join(""));
    this.band.setAttribute("d", runs.filter((run) => run.some((one) => one.low !== one.high)).map((run) =>
      `M${run.map((one) => place(one.t, one.high)).join("L")}L${run.toReversed().map((one) => place(one.t, one.low)).join("L")}Z`).join(""));
    this.#drawValue(points, cursorMs, newest, x, y);
    const lows = points.map((one) => one.low);
    const highs = points.map((one) => one.high);
    this.svg.setAttribute("aria-label", `${this.name}: newest ${valueText(newest.value, 60)}, between ${numberText(lows.reduce((a, b) => Math.min(a, b)))} and ${numberText(highs.reduce((a, b) => Math.max(a, b)))}`);
  }

  #drawGrid(scale, x, y, start, end, width, isLast) {
    const rows = scale.ticks.map((tick) => [
      svg("line", { x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick) }),
      svg("text", { x: LEFT - 8, y: y(tick) + 4, "text-anchor": "end" }, axisText(tick, scale.step, scale.ticks[0])),
    ]).flat();
    const most = Math.max(2, Math.floor((width - LEFT) / 90));
    const step = (TIMES.find((one) => (end - start) / 1000 / one <= most) ?? 86400) * 1000;
    const zone = new Date(start).getTimezoneOffset() * 60_000;
    for (let t = Math.ceil((start - zone) / step) * step + zone; t <= end; t += step) {
      rows.push(svg("line", { x1: x(t), x2: x(t), y1: TOP, y2: HEIGHT }));
      const isInside = x(t) > LEFT + 10 && x(t) < width - RIGHT - 18;
      if (isLast && isInside) rows.push(svg("text", { x: x(t), y: HEIGHT + 15, "text-anchor": "middle" }, clockText(t, step < 60_000)));
    }
    this.grid.replaceChildren(...rows);
  }

  #drawValue(points, cursorMs, newest, x, y) {
    const shown = cursorMs === null ? points.at(-1) : nearest(points, cursorMs);
    this.dot.setAttribute("cx", x(shown.t));
    this.dot.setAttribute("cy", y(shown.mean));
    this.rule.classList.toggle("is-shown", cursorMs !== null);
    if (cursorMs !== null) {
      this.rule.setAttribute("x1", x(cursorMs));
      this.rule.setAttribute("x2", x(cursorMs));
    }
    setText(this.value, cursorMs === null ? valueText(newest.value, 60) : numberText(Number(shown.mean.toPrecision(6))));
    const spread = shown.low === shown.high ? "" : ` (${numberText(shown.low)} to ${numberText(shown.high)})`;
    const age = newest.unix_ms === null ? "no date" : agoText(newest.unix_ms);
    setText(this.when, cursorMs === null ? age : `at ${clockText(shown.t)}${spread}`);
  }
}

function lineOf(run, place) {
  // A single reading has no length; a cap that is round makes it a dot.
  const path = `M${run.map((one) => place(one.t, one.mean)).join("L")}`;
  return run.length === 1 ? `${path}h0` : path;
}

function runsOf(points, stepMs) {
  const distances = points.slice(1).map((one, index) => one.t - points[index].t).sort((a, b) => a - b);
  const usual = distances[Math.floor(distances.length / 2)] ?? stepMs;
  const most = BREAK * Math.max(usual, stepMs);
  const runs = [];
  for (const point of points) {
    const run = runs.at(-1);
    if (run && point.t - run.at(-1).t <= most) run.push(point);
    else runs.push([point]);
  }
  return runs;
}

function nearest(points, t) {
  return points.reduce((best, one) => (Math.abs(one.t - t) < Math.abs(best.t - t) ? one : best));
}

/** The axis of values: round steps around all of them. `unit` keeps sums below infinity. */
function axisOf(points) {
  let low = Infinity;
  let high = -Infinity;
  for (const point of points) {
    low = Math.min(low, point.low);
    high = Math.max(high, point.high);
  }
  if (low === high) {
    const room = Math.abs(low) * 0.05 || 1;
    low -= room;
    high += room;
  }
  const step = roundUp((high - low) / 2.5);
  const from = Math.floor(low / step) * step;
  const ticks = [];
  for (let tick = from; ticks.length < 6; tick += step) {
    ticks.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
    if (tick >= high - step * 1e-9) break;
  }
  return { unit: step, low: ticks[0] / step, high: ticks.at(-1) / step, ticks, step };
}

const magnitude = (size) => Math.floor(Math.log10(size) + 1e-9);

function roundUp(step) {
  const size = 10 ** Math.floor(Math.log10(step));
  return size * ([1, 2, 5, 10].find((one) => step <= one * size * 1.0001) ?? 10);
}

/** A tick's label; with many equal digits it is `first` and, above it, what is added to that. */
export function axisText(tick, step, first) {
  const size = Math.abs(tick);
  const apart = size === 0 ? 0 : magnitude(size) - magnitude(step);
  if (apart > 4 && tick > first) return `+${axisText(tick - first, step, 0)}`;
  if (size >= 1e6 || (size !== 0 && size < 1e-3)) {
    const digits = Math.max(1, Math.min(apart, 4));
    return tick.toExponential(digits).replace("+", "").replace(/\.?0+e/, "e");
  }
  const digits = Math.max(0, Math.min(6, -magnitude(step)));
  return size >= 10_000 ? `${numberText(tick / 1000)}k` : tick.toFixed(digits);
}
