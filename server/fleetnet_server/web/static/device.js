// The page of one device.

import { devicePath, get, queryText } from "./api.js";
import { alarmList } from "./alarms.js";
import { makeCertificates } from "./certificates.js";
import { makeCommands } from "./commands.js";
import { makeConfig } from "./config.js";
import { clean, el, quoted, setText } from "./dom.js";
import { statusMark } from "./fleet.js";
import { makeFrame } from "./frame.js";
import { makeLog } from "./log.js";
import { makeReadings } from "./readings.js";
import { makeRegistration } from "./registration.js";
import { agoText, dateText, lagText, untilText } from "./time.js";

const EVERY_MS = 5_000;
const SOON_MS = 500;

export function makeDevice(name, { allows }) {
    const kinds = [
    "session-opened", "session-ended", "session-refused", "gap", "alarm", "command-ended", "config-applied",
    "config-rejected", "blob-stored", "readings", "live",
  ];
  const facts = el("dl", { class: "facts" });
  const state = el("span", { class: "state" });
  const error = el("p", { class: "error", role: "alert" });
  const sections = {
    readings: makeReadings(name),
    frame: makeFrame(name),
    commands: makeCommands(name, allows("command")),
    config: makeConfig(name, allows("config")),
    log: makeLog(name),
    certificates: makeCertificates(name),
    registration: makeRegistration(name, allows("admin"), () => {
      refresh();
      sections.certificates.refresh();
    }),
  };
  const alarms = alarmList({ device: name });
  let timer = 0;
  let isClosed = false;
  let isMissing = false;

  async function refresh() {
    clearTimeout(timer);
    try {
      const device = await get(devicePath(name));
      if (isClosed) return;
      draw(device);
      setText(error, "");
    } catch (failure) {
      if (isClosed) return;
      isMissing = failure.status === 404 || failure.status === 422;
      setText(error, failure.message);
      if (isMissing) parts.hidden = true;
    }
    if (!isClosed && !isMissing) timer = setTimeout(refresh, EVERY_MS);
  }

  function draw(device) {
    const status = device.state === "enabled" ? device.connection.state : device.state;
    if (state.dataset.status !== status) {
      state.dataset.status = status;
      state.replaceChildren(statusMark(status));
    }
    const rows = factsOf(device);
    const text = JSON.stringify(rows);
    if (facts.dataset.text !== text) {
      facts.dataset.text = text;
      facts.replaceChildren(...rows.map(([label, value, title]) =>
        el("div", { class: value.length > 16 ? "is-long" : null }, el("dt", {}, label), el("dd", { title: title ?? null }, quoted(value, 120)))));
    }
    sections.registration.show(device);
    sections.commands.show(device);
  }

  const card = (title, section, kind = "") => {
    const id = `title-${title.toLowerCase().replaceAll(" ", "-")}`;
    // What scrolls by itself has to be reached by keyboard.
    const body = kind === "scrolls" ? el("div", { class: "scroller", tabindex: 0, role: "group", "aria-labelledby": id }, section.node) : section.node;
    return el("section", { class: `card ${kind}`, "aria-labelledby": id }, el("h2", { id }, title), body);
  };
  const pictures = card("Latest frame", sections.frame);
  pictures.hidden = true;
  sections.frame.whenThere = () => (pictures.hidden = false);
  const parts = el("div", { class: "cards" },
    card("Readings", sections.readings, "wide"),
    el("div", { class: "column" },
      pictures,
      card("Alarms", alarms, "scrolls"),
      card("Log", sections.log, "scrolls")),
    el("div", { class: "column" },
      card("Commands", sections.commands),
      card("Configuration", sections.config)),
    card("Certificates", sections.certificates, "wide"),
    card("Registration", sections.registration, "wide"));
  const node = el("div", { class: "device" },
    el("p", { class: "path" }, el("a", { href: "#/" }, "Devices"), el("span", { "aria-hidden": "true" }, " / ")),
    el("div", { class: "heading" }, el("h1", {}, quoted(name, 80)), state),
    error, facts, parts);

  return {
    name: "device", title: clean(name, 80), node,
    events: `${queryText({ device: name })}&${kinds.map((kind) => `kind=${kind}`).join("&")}`,
    async refresh() {
      await refresh();
      if (isMissing || isClosed) return;
      for (const section of Object.values(sections)) section.refresh?.();
      alarms.refresh();
    },
    onEvent(event) {
      if (event.kind.startsWith("session-") || event.kind === "gap") {
        clearTimeout(timer);
        timer = setTimeout(refresh, SOON_MS);
      }
      alarms.onEvent(event);
      for (const section of Object.values(sections)) section.onEvent?.(event);
    },
    close() {
      isClosed = true;
      clearTimeout(timer);
      for (const section of Object.values(sections)) section.close?.();
    },
  };
}

/** [label, text, title] of what is known of a device. */
function factsOf(device) {
  const { connection } = device;
  const isOnline = connection.state === "online";
  const seen = connection.last_seen_ms ?? device.last_message_ms;
  const rows = [
    ["Transport", connection.via ? `via ${connection.via}` : connection.link ? connection.link.toUpperCase() : "–"],
    ...(connection.node ? [["Server", connection.node]] : []),
    ["Address", connection.address || "–"],
    ["Last seen", seen === null ? "never" : isOnline ? "now" : agoText(seen), seen === null ? null : dateText(seen)],
    [isOnline ? "Online for" : "Away for", connection.since_ms === null ? "–" : agoText(connection.since_ms).replace(" ago", ""),
      connection.since_ms === null ? null : dateText(connection.since_ms)],
    ["Certificate ends", device.expires_ms === null ? "–" : untilText(device.expires_ms), device.expires_ms === null ? null : dateText(device.expires_ms)],
    ["Lag", connection.lag_ms === null ? "–" : lagText(connection.lag_ms), "age of the newest reading when it arrived"],
    ["Lost", connection.lost.toLocaleString("en"), "messages that the device gave up"],
    ["Messages", connection.messages.toLocaleString("en"), "stored since the server's start"],
    ["Sessions", connection.sessions.toLocaleString("en"), "since the server's start"],
    ["Software", connection.software || "–"],
    ["Group", device.group || "–"],
  ];
  if (!isOnline && connection.ended) rows.splice(4, 0, ["Ended", connection.ended]);
  for (const [key, value] of Object.entries(device.labels)) rows.push([clean(key, 40), value]);
  return rows;
}
