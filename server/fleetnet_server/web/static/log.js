// The device's own log, the newest line first.

import { devicePath, get } from "./api.js";
import { clean, el, quoted, setText } from "./dom.js";
import { dateText, stampText } from "./time.js";

const LINES = 100;
// Lines come with the device's messages, without an event of their own.
const EVERY_MS = 5_000;
const LEVELS = ["debug", "info", "warning", "error", "critical"];

export function makeLog(name) {
  const list = el("ol", { class: "log" });
  const note = el("p", { class: "hint" });
  let timer = 0;
  let isClosed = false;
  let before = "";

  async function refresh() {
    clearTimeout(timer);
    try {
      const { items, next } = await get(devicePath(name, `/log?limit=${LINES}`));
      if (isClosed) return;
      const text = JSON.stringify(items.slice(0, LINES));
      if (text !== before) list.replaceChildren(...items.slice(0, LINES).map(line));
      before = text;
      setText(note, items.length ? "" : next ? "None among the newest messages." : "It has written nothing.");
    } catch (failure) {
      if (!isClosed) setText(note, failure.message);
    }
    if (!isClosed) timer = setTimeout(() => (document.hidden ? plan() : refresh()), EVERY_MS);
  }

  function plan() {
    timer = setTimeout(() => (document.hidden ? plan() : refresh()), EVERY_MS);
  }

  function line({ unix_ms: unixMs, level, text }) {
    const known = LEVELS.includes(level.toLowerCase()) ? level.toLowerCase() : "other";
    return el("li", { class: `is-${known}` },
      el("time", { title: dateText(unixMs) }, stampText(unixMs)),
      el("span", { class: "level" }, clean(level, 10)),
      quoted(text, 400));
  }

  return {
    node: el("div", {}, list, note),
    refresh,
    close() {
      isClosed = true;
      clearTimeout(timer);
    },
  };
}
