// The overview: one screen of devices; the server filters, sorts and counts.

import { deviceLink, get, queryText } from "./api.js";
import { alarmList } from "./alarms.js";
import { announce, clean, el, quoted, reconcile, setText } from "./dom.js";
import { agoText, dateText, lagText, setServerTime, untilText } from "./time.js";

const PAGE = 50;
// What no event tells (last seen, lag) is asked for; what events tell is asked for soon after.
const EVERY_MS = 5_000;
const SOON_MS = 700;
const TYPING_MS = 200;

const COUNTERS = [
  ["all", "All"], ["online", "Online"], ["offline", "Offline"], ["quarantined", "Quarantined"],
  ["disabled", "Disabled"], ["expiring", "Expiring"],
];
// key, heading, whether a first click sorts downwards
const COLUMNS = [
  ["name", "Device", false], ["status", "State", false], ["last_seen", "Last seen", true],
  ["link", "Transport", false], ["expires", "Certificate ends", false], ["lag", "Lag", true],
  ["lost", "Lost", true],
];

export function makeFleet({ query }) {
  const wanted = {
    text: query.get("text") ?? "", show: query.get("show") ?? "all", sort: query.get("sort") ?? "name",
    descending: query.get("descending") === "true", offset: Number(query.get("offset")) || 0,
  };
  const counters = new Map(COUNTERS.map(([key, label]) => [key, makeCounter(key, label)]));
  const headings = new Map(COLUMNS.map((column) => [column[0], makeHeading(...column)]));
  const body = el("tbody");
  const shownText = el("p", { class: "hint", id: "shown" });
  const before = el("button", { type: "button", on: { click: () => turn(-PAGE) } }, "Previous");
  const after = el("button", { type: "button", on: { click: () => turn(PAGE) } }, "Next");
  const error = el("p", { class: "error", role: "alert" });
  const alarms = alarmList({ most: 6 });
  const search = el("input", {
    id: "search", type: "search", maxlength: 100, placeholder: "Name, group or label",
    autocapitalize: "off", spellcheck: "false", value: wanted.text, on: { input: typed },
  });
  const order = el("select", { id: "order", on: { change: ordered } }, COLUMNS.flatMap(([key, label]) => [
    el("option", { value: key }, `${label}, ascending`), el("option", { value: `-${key}` }, `${label}, descending`),
  ]));
  let timer = 0;
  let typing = 0;
  let asked = null;
  let isClosed = false;

  function makeCounter(key, label) {
    const number = el("span", { class: "number" }, "–");
    const button = el("button", { type: "button", class: `counter is-${key}`, on: { click: () => choose({ show: key }) } },
      number, el("span", { class: "label" }, label));
    return { button, number };
  }

  function makeHeading(key, label, isDescending) {
    const button = el("button", { type: "button", on: { click() {
      const isSame = wanted.sort === key;
      choose({ sort: key, descending: isSame ? !wanted.descending : isDescending });
    } } }, label);
    return el("th", { scope: "col", class: `col-${key}` }, button);
  }

  function typed() {
    clearTimeout(typing);
    typing = setTimeout(() => choose({ text: search.value.trim() }), TYPING_MS);
  }

  function ordered() {
    choose({ sort: order.value.replace("-", ""), descending: order.value.startsWith("-") });
  }

  function turn(step) {
    choose({ offset: Math.max(0, wanted.offset + step) });
    window.scrollTo(0, 0);
  }

  function choose(change) {
    Object.assign(wanted, { offset: 0 }, change);
    const { text, show, sort, descending, offset } = wanted;
    // The address leads to the same list, and is no step of the history for each letter.
    history.replaceState(null, "", `#/${queryText({
      text, show: show === "all" ? "" : show, sort: sort === "name" ? "" : sort, descending, offset: offset || "",
    })}`);
    refresh(true);
  }

  async function refresh(isAsked = false) {
    clearTimeout(timer);
    asked?.abort();
    const mine = (asked = new AbortController());
    try {
      const found = await get(`/overview${queryText({ ...wanted, limit: PAGE })}`, { signal: mine.signal });
      if (isClosed) return;
      setServerTime(found.at_ms);
      if (wanted.offset && wanted.offset >= found.total) {
        choose({ offset: Math.max(0, (Math.ceil(found.total / PAGE) - 1) * PAGE) });
        return;
      }
      setText(error, "");
      draw(found);
      if (isAsked) announce(shownText.textContent);
    } catch (failure) {
      if (failure.name === "AbortError" || isClosed) return;
      setText(error, failure.message);
    }
    if (!isClosed && mine === asked) timer = setTimeout(refresh, EVERY_MS);
  }

  function draw({ counts, total, offset, items }) {
    for (const [key, { button, number }] of counters) {
      setText(number, (counts[key] ?? 0).toLocaleString("en"));
      button.setAttribute("aria-pressed", String(wanted.show === key));
      button.classList.toggle("is-none", !counts[key]);
    }
    for (const [key, heading] of headings) {
      if (key === wanted.sort) heading.setAttribute("aria-sort", wanted.descending ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    }
    order.value = `${wanted.descending ? "-" : ""}${wanted.sort}`;
    reconcile(body, items, (row) => row.name, makeRow, updateRow);
    const last = offset + items.length;
    setText(shownText, emptyText(counts, total) || `${(offset + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${total.toLocaleString("en")}`);
    before.disabled = offset === 0;
    after.disabled = last >= total;
    pager.hidden = total <= PAGE;
  }

  function emptyText(counts, total) {
    if (total) return "";
    return counts.all ? "No device fits this filter." : "No devices yet: `fleetnet device add NAME` registers one.";
  }

  const pager = el("div", { class: "pager", hidden: true }, before, after);
  const node = el("div", { class: "fleet" },
    el("h1", {}, "Devices"),
    el("div", { class: "counters", role: "group", "aria-label": "Show devices by state" },
      [...counters.values()].map((one) => one.button)),
    el("div", { class: "columns" },
      el("section", { "aria-labelledby": "list-title", class: "list" },
        el("h2", { id: "list-title", class: "visually-hidden" }, "List of devices"),
        el("div", { class: "tools" },
          el("div", { class: "field" }, el("label", { for: "search" }, "Search"), search),
          el("div", { class: "field order" }, el("label", { for: "order" }, "Order"), order)),
        error,
        el("table", { class: "devices" }, el("thead", {}, el("tr", {}, [...headings.values()])), body),
        el("div", { class: "under" }, shownText, pager)),
      el("aside", { "aria-labelledby": "alarms-title" },
        el("h2", { id: "alarms-title" }, "Latest alarms"), alarms.node,
        el("p", {}, el("a", { href: "#/alarms" }, "All alarms")))));

  return {
    name: "fleet", title: "Devices", node,
    events: "",
    refresh() {
      refresh();
      alarms.refresh();
    },
    onEvent(event) {
      alarms.onEvent(event);
      if (!event.kind.startsWith("session-")) return;
      clearTimeout(timer);
      timer = setTimeout(refresh, SOON_MS);
    },
    close() {
      isClosed = true;
      clearTimeout(timer);
      clearTimeout(typing);
      asked?.abort();
    },
  };
}

// -- rows ------------------------------------------------------------------------------------

function makeRow(row) {
  const link = el("a", { href: deviceLink(row.name) }, clean(row.name, 80));
  const cell = (name, label) => el("td", { class: `col-${name}`, "data-label": label });
  return el("tr", {},
    el("th", { scope: "row", class: "col-name" }, link, el("span", { class: "labels" })),
    COLUMNS.slice(1).map(([name, label]) => cell(name, label)));
}

const labelTexts = ({ group, labels }) => [
  ...(group && group !== "default" ? [group] : []), ...Object.entries(labels).map(([key, value]) => `${key}=${value}`),
];

function updateRow(node, row) {
  const { connection } = row;
  const [name, status, seen, link, expires, lag, lost] = node.children;
  const labels = labelTexts(row).map((text) => clean(text, 40));
  if (name.dataset.labels !== labels.join("\n")) {
    name.dataset.labels = labels.join("\n");
    name.lastChild.replaceChildren(...labels.slice(0, 3).map((text) => quoted(text)));
  }
  if (status.dataset.status !== row.status) {
    status.dataset.status = row.status;
    status.replaceChildren(statusMark(row.status));
  }
  setText(seen, row.last_seen_ms === null ? "never" : connection.state === "online" ? agoShort(row.last_seen_ms) : agoText(row.last_seen_ms));
  seen.title = row.last_seen_ms === null ? "" : dateText(row.last_seen_ms);
  setText(link, connection.via ? `via ${clean(connection.via, 80)}` : clean(connection.link.toUpperCase(), 12) || "–");
  link.title = connection.node ? `at server ${connection.node}` : "";
  if (connection.node) setText(link, `${link.textContent} · ${clean(connection.node, 64)}`);
  setText(expires, row.expires_ms === null ? "–" : untilText(row.expires_ms));
  expires.title = row.expires_ms === null ? "" : dateText(row.expires_ms);
  expires.className = `col-expires level-${row.expires_level}`;
  setText(lag, connection.lag_ms === null ? "–" : lagText(connection.lag_ms));
  setText(lost, connection.lost ? connection.lost.toLocaleString("en") : "0");
  lost.classList.toggle("is-bad", connection.lost > 0);
}

// Somebody who is here and was heard of within the keep-alive is here: no flicker of seconds.
function agoShort(unixMs) {
  const text = agoText(unixMs);
  return / s ago$/.test(text) ? "now" : text;
}

/** A state with its sign: never by colour alone. */
export function statusMark(status) {
  const text = clean(status, 20);
  return el("span", { class: `status is-${text}` }, el("span", { class: "dot", "aria-hidden": "true" }), text);
}
