// The configuration: what the device should have, what it says of it, and setting another one.

import { ask, devicePath, get } from "./api.js";
import { announce, clean, el, setText } from "./dom.js";
import { agoText } from "./time.js";

// The API's own bound of a document, in characters that one may write.
const MOST = 16_384;

export function makeConfig(name, isAllowed) {
  const status = el("p", { class: "config-state" });
  const text = el("textarea", { id: "config", rows: 8, maxlength: MOST, spellcheck: "false", autocapitalize: "off",
    readonly: !isAllowed, "aria-describedby": "config-error", on: { input: edited } });
  const error = el("p", { class: "error", id: "config-error", role: "alert" });
  const set = el("button", { type: "submit", class: "primary", disabled: true }, "Set");
  const undo = el("button", { type: "button", disabled: true, on: { click: drop } }, "Undo");
  const reported = el("pre", { class: "reported", tabindex: "0", "aria-label": "Reported by the device" });
  const reportedPart = el("details", { class: "report", hidden: true }, el("summary", {}, "What the device reports"), reported);
  let known = "{}";
  let isEdited = false;
  let isClosed = false;

  function edited() {
    isEdited = text.value !== known;
    set.disabled = undo.disabled = !isEdited;
  }

  function drop() {
    text.value = known;
    setText(error, "");
    text.removeAttribute("aria-invalid");
    edited();
  }

  async function refresh() {
    try {
      const found = await get(devicePath(name, "/config"));
      if (!isClosed) draw(found);
    } catch (failure) {
      if (isClosed) return;
      if (failure.status === 404) drawNone();
      else setText(error, failure.message);
    }
  }

  function drawNone() {
    setText(status, "None was set; the device runs with its own.");
    status.className = "config-state";
    if (!isEdited) text.value = known;
  }

  function draw(config) {
    known = JSON.stringify(config.document, null, 2);
    if (!isEdited) text.value = known;
    edited();
    const [kind, told] = stateText(config);
    setText(status, `Version ${config.version}, set ${agoText(config.set_ms)}: ${told}`);
    status.className = `config-state is-${kind}`;
    const has = config.reported !== null && config.reported !== undefined && kind === "applied";
    reportedPart.hidden = !has;
    // Line by line, so that the breaks of the layout stay and those of the device do not.
    if (has) setText(reported, JSON.stringify(config.reported, null, 2).split("\n").map((line) => clean(line, 200)).join("\n"));
  }

  async function send(event) {
    event.preventDefault();
    setText(error, "");
    text.removeAttribute("aria-invalid");
    let document;
    try {
      document = JSON.parse(text.value);
      if (document === null || typeof document !== "object" || Array.isArray(document)) throw new Error('write an object, {"rate": 5}');
    } catch (wrong) {
      text.setAttribute("aria-invalid", "true");
      setText(error, `This is no configuration: ${wrong.message}`);
      text.focus();
      return;
    }
    set.disabled = true;
    try {
      const { version } = await ask("PUT", devicePath(name, "/config"), { document });
      isEdited = false;
      announce(`Configuration version ${version} is set.`);
      await refresh();
    } catch (refused) {
      setText(error, refused.message);
      set.disabled = false;
    }
  }

  const buttons = isAllowed ? el("div", { class: "buttons" }, set, undo)
    : el("p", { class: "hint" }, "This token may look, not set: it lacks the scope config.");
  return {
    node: el("form", { class: "config", on: { submit: send } },
      status, el("label", { for: "config" }, "It should have"), text, error, buttons, reportedPart),
    refresh,
    onEvent: (event) => event.kind.startsWith("config-") && refresh(),
    close() {
      isClosed = true;
    },
  };
}

function stateText({ version, state, state_version: stateVersion, state_ms: stateMs, reported }) {
  if (stateVersion === version && state === "applied") return ["applied", `applied ${agoText(stateMs)}.`];
  if (stateVersion === version && state === "rejected") {
    const why = typeof reported === "string" ? reported : JSON.stringify(reported);
    return ["rejected", `rejected ${agoText(stateMs)}: ${clean(why ?? "no reason given", 300)}`];
  }
  return ["waiting", stateVersion ? `not there yet; the device has version ${stateVersion}.` : "not there yet."];
}
