// Alarms: what devices report as events, the newest first.

import { deviceLink, get, queryText } from "./api.js";
import { el, quoted, setText, valueText } from "./dom.js";
import { dateText, stampText } from "./time.js";

const PAGE = 50;
const MOST = 1000;

/** A list of alarms that stays the newest: of a device, or of all. */
export function alarmList({ device = "", most = PAGE } = {}) {
  const list = el("ol", { class: "alarms" });
  const note = el("p", { class: "hint" });
  let next = null;

  function make(alarm, isNew = false) {
    const value = alarm.value === null ? "" : valueText(alarm.value, most < PAGE ? 80 : 160);
    return el("li", { class: isNew ? "is-new" : null },
      el("time", { datetime: isoText(alarm.unix_ms), title: dateText(alarm.unix_ms) }, stampText(alarm.unix_ms)),
      el("span", { class: "what" }, el("strong", {}, quoted(alarm.name, 64)), value && " ", value && quoted(value)),
      device ? null : el("a", { href: deviceLink(alarm.device) }, quoted(alarm.device, 64)));
  }

  async function load(cursor = "") {
    try {
      const found = await get(`/alarms${queryText({ device, limit: Math.min(most, PAGE), cursor })}`);
      const rows = found.items.slice(0, most).map((alarm) => make(alarm));
      if (cursor) list.append(...rows);
      else list.replaceChildren(...rows);
      next = found.next;
      setText(note, list.childElementCount ? "" : next ? "None among the newest messages." : "None so far.");
    } catch (failure) {
      setText(note, failure.message);
    }
  }

  return {
    node: el("div", {}, list, note),
    refresh: () => load(),
    more: async () => {
      if (next && list.childElementCount < MOST) await load(next);
      return Boolean(next) && list.childElementCount < MOST;
    },
    get hasMore() {
      return Boolean(next);
    },
    onEvent(event) {
      if (event.kind !== "alarm") return;
      list.prepend(make(event, true));
      while (list.childElementCount > Math.max(most, MOST * (most === PAGE))) list.lastChild.remove();
      setText(note, "");
    },
  };
}

function isoText(unixMs) {
  const date = new Date(unixMs ?? Number.NaN);
  return Number.isNaN(date.getTime()) ? null : date.toISOString();
}

/** The page of all alarms. */
export function makeAlarms() {
  const alarms = alarmList();
  const older = el("button", { type: "button", on: { click: async () => {
    older.disabled = true;
    older.hidden = !(await alarms.more());
    older.disabled = false;
  } }, hidden: true }, "Older ones");
  return {
    name: "alarms", title: "Alarms",
    node: el("div", { class: "alarm-page" },
      el("h1", {}, "Alarms"),
      el("p", { class: "hint" }, "What devices report as events. New ones appear by themselves."),
      el("section", { class: "card", "aria-label": "Alarms" }, alarms.node, older)),
    events: "?kind=alarm",
    async refresh() {
      await alarms.refresh();
      older.hidden = !alarms.hasMore;
    },
    onEvent: alarms.onEvent,
  };
}
