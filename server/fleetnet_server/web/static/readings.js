// Readings of a device: a plot for each channel of numbers over one axis of time, and the newest
// values of the others. The last hour comes from the API, what follows from the events.

import { devicePath, get, queryText } from "./api.js";
import { clean, el, quoted, reconcile, setText, valueText } from "./dom.js";
import { Plot } from "./plot.js";
import { agoText, clockText, dateText, now, setServerTime } from "./time.js";

const RANGES = [[300_000, "5 min"], [3_600_000, "1 h"], [21_600_000, "6 h"], [86_400_000, "24 h"]];
const POINTS = 360;
// More plots than these are asked for; the API gives 64 channels at most.
const SHOWN = 8;
const MOST_CHANNELS = 64;
const TICK_MS = 1_000;
const CALM_TICK_MS = 5_000;

export function makeReadings(name) {
  const channels = new Map();
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  let range = RANGES[1][0];
  let stepMs = range / POINTS;
  let isAll = false;
  let isLoading = 0;
  let isClosed = false;
  let lastDraw = 0;
  let frame = 0;

  const note = el("p", { class: "hint" }, "Loading…");
  const plots = el("div", { class: "plots" });
  const others = el("dl", { class: "values" });
  const more = el("button", { type: "button", hidden: true, on: { click() {
    isAll = true;
    draw(true);
  } } });
  const cursor = el("input", { type: "range", class: "cursor", min: 0, max: POINTS, value: POINTS, step: 1,
    "aria-label": "Time to read the values of", on: { input: () => draw(true) } });
  const at = el("output", { class: "at" });
  const buttons = RANGES.map(([length, label]) =>
    el("button", { type: "button", "aria-pressed": String(length === range), on: { click: () => choose(length) } }, label));
  const scrub = el("div", { class: "scrub", hidden: true }, cursor);

  function choose(length) {
    range = length;
    buttons.forEach((button, index) => button.setAttribute("aria-pressed", String(RANGES[index][0] === length)));
    load();
  }

  async function load() {
    const mine = (isLoading += 1);
    try {
      const end = Math.round(now());
      const found = await get(devicePath(name, `/curves${queryText({ start: end - range, end, points: POINTS })}`));
      if (isClosed || mine !== isLoading) return;
      stepMs = found.step_ms;
      for (const key of [...channels.keys()]) {
        channels.get(key).points = [];
        if (!found.channels.some((one) => one.name === key) && !channels.get(key).isLive) channels.delete(key);
      }
      for (const one of found.channels) {
        const channel = channelOf(one.name);
        channel.points = one.points.map(([t, low, mean, high]) => ({ t, low, mean, high, count: 1 }));
        newest(channel, one.unix_ms, one.value);
      }
      const left = found.channels_left_out ? ` ${found.channels_left_out} or more channels are left out.` : "";
      setText(note, found.is_complete ? left : `Too many readings to draw in time: the newest of this range are missing. Choose a shorter one.${left}`);
      await loadLive();
    } catch (failure) {
      if (!isClosed) setText(note, failure.message);
    }
    draw(true);
  }

  async function loadLive() {
    const found = await get(devicePath(name, "/live"));
    for (const one of found.readings) add(one, true);
  }

  function channelOf(key) {
    let channel = channels.get(key);
    if (!channel) {
      channel = { key, points: [], unix_ms: null, value: null, isLive: false, plot: null };
      channels.set(key, channel);
    }
    return channel;
  }

  function newest(channel, unixMs, value) {
    if (channel.unix_ms !== null && unixMs !== null && unixMs < channel.unix_ms) return;
    channel.unix_ms = unixMs;
    channel.value = value;
  }

  function add({ channel: key, unix_ms: unixMs, value }, isLive) {
    if (!channels.has(key) && channels.size >= MOST_CHANNELS) return;
    const channel = channelOf(key);
    channel.isLive ||= isLive;
    newest(channel, unixMs, value);
    const number = typeof value === "boolean" ? Number(value) : value;
    if (typeof number !== "number" || !Number.isFinite(number) || Math.abs(number) > 1e300 || unixMs === null) return;
    if (unixMs < now() - range || unixMs > now() + range) return;
    const { points } = channel;
    let place = points.length;
    while (place > 0 && points[place - 1].t > unixMs) place -= 1;
    const near = points[place - 1];
    if (near && unixMs - near.t < stepMs) {
      near.count += 1;
      near.low = Math.min(near.low, number);
      near.high = Math.max(near.high, number);
      near.mean += (number - near.mean) / near.count;
    } else points.splice(place, 0, { t: unixMs, low: number, mean: number, high: number, count: 1 });
  }

  function draw(isNow = false) {
    const elapsed = performance.now() - lastDraw;
    if (frame || isClosed || (!isNow && elapsed < (calm.matches ? CALM_TICK_MS : TICK_MS))) return;
    frame = requestAnimationFrame(() => {
      frame = 0;
      lastDraw = performance.now();
      if (!isClosed) drawNow();
    });
  }

  function drawNow() {
    const end = now();
    const start = end - range;
    for (const channel of channels.values()) {
      const first = channel.points.findIndex((point) => point.t >= start);
      if (first > 0) channel.points.splice(0, first);
      else if (first < 0) channel.points = [];
    }
    const sorted = [...channels.values()].sort((a, b) => (a.key < b.key ? -1 : 1));
    const drawn = sorted.filter((one) => one.points.length);
    const shown = isAll ? drawn : drawn.slice(0, SHOWN);
    const place = Number(cursor.value);
    const isAtEnd = place >= POINTS;
    const cursorMs = isAtEnd ? null : start + (range * place) / POINTS;
    scrub.hidden = !drawn.length;
    setText(at, isAtEnd ? "" : dateText(cursorMs));
    cursor.setAttribute("aria-valuetext", isAtEnd ? "now" : clockText(cursorMs));
    reconcile(plots, shown, (one) => `c${one.key}`, makePlot, (node, one) =>
      one.plot.update({ points: one.points, start, end, stepMs, cursorMs, newest: one, isLast: one === shown.at(-1) }));
    more.hidden = drawn.length <= shown.length;
    setText(more, `Show ${drawn.length - shown.length} more channels`);
    const rest = sorted.filter((one) => !one.points.length && one.unix_ms !== undefined && one.value !== undefined);
    reconcile(others, rest, (one) => `v${one.key}`, makeValue, updateValue);
    others.hidden = !rest.length;
    if (!sorted.length && (note.textContent === "" || note.textContent === "Loading…")) setText(note, "No readings in this time.");
    else if (sorted.length && /^(No readings|Loading)/.test(note.textContent)) setText(note, "");
  }

  function makePlot(channel) {
    channel.plot = new Plot(channel.key, (fraction) => {
      cursor.value = fraction === null ? POINTS : Math.round(fraction * POINTS);
      draw(true);
    });
    return channel.plot.node;
  }

  function makeValue(channel) {
    return el("div", {}, el("dt", {}, quoted(channel.key, 64)), el("dd", {}, el("bdi", { class: "quoted" })));
  }

  function updateValue(node, channel) {
    setText(node.lastChild.firstChild, valueText(channel.value, 200));
    node.title = channel.unix_ms === null ? "no date" : `${dateText(channel.unix_ms)}, ${agoText(channel.unix_ms)}`;
  }

  const watcher = new ResizeObserver(() => draw(true));
  watcher.observe(plots);
  const timer = setInterval(() => document.hidden || draw(), TICK_MS);
  return {
    node: el("div", { class: "readings" },
      el("div", { class: "tools" },
        el("div", { class: "choice", role: "group", "aria-label": "Range of time" }, buttons), at),
      note, plots, scrub, more, others),
    refresh: load,
    onEvent(event) {
      if (event.kind !== "readings" && event.kind !== "live") return;
      setServerTime(event.at_ms);
      for (const one of event.readings) add(one, event.kind === "live");
      draw();
    },
    close() {
      isClosed = true;
      clearInterval(timer);
      watcher.disconnect();
      cancelAnimationFrame(frame);
    },
  };
}
