// Commands: sending one, and how the newest ended.

import { ask, devicePath, get, queryText } from "./api.js";
import { announce, clean, el, quoted, reconcile, setText, valueText } from "./dom.js";
import { dateText, stampText } from "./time.js";

const LISTED = 20;
const WAIT_S = 10;

const KEEP = [["", "Only now"], ["3600", "For an hour"], ["86400", "For a day"], ["604800", "For a week"]];

export function makeCommands(name, isAllowed) {
  const list = el("ol", { class: "commands" });
  const note = el("p", { class: "hint" });
  const known = el("datalist", { id: "known-commands" });
  const command = el("input", { id: "command", required: true, maxlength: 64, list: "known-commands",
    autocapitalize: "off", autocomplete: "off", spellcheck: "false" });
  const args = el("textarea", { id: "args", rows: 2, spellcheck: "false", autocapitalize: "off",
    placeholder: '{"times": 3}', "aria-describedby": "command-error" });
  const keep = el("select", { id: "keep" }, KEEP.map(([value, label]) => el("option", { value }, label)));
  const error = el("p", { class: "error", id: "command-error", role: "alert" });
  const button = el("button", { type: "submit", class: "primary" }, "Send");
  let isOnline = true;
  let isClosed = false;

  async function send(event) {
    event.preventDefault();
    setText(error, "");
    args.removeAttribute("aria-invalid");
    let parsed;
    try {
      parsed = argumentsOf(args.value);
    } catch (wrong) {
      args.setAttribute("aria-invalid", "true");
      setText(error, wrong.message);
      args.focus();
      return;
    }
    button.disabled = true;
    setText(button, "Waiting…");
    try {
      const body = { name: command.value.trim(), args: parsed, wait_s: isOnline ? WAIT_S : 0, expires_s: keep.value ? Number(keep.value) : null };
      const done = await ask("POST", devicePath(name, "/call"), body);
      announce(`${clean(done.name, 64)}: ${done.state}${done.state === "ok" ? `, ${valueText(done.result, 100)}` : ""}`);
    } catch (refused) {
      setText(error, refused.message);
    }
    button.disabled = false;
    setText(button, "Send");
    if (!isClosed) refresh();
  }

  async function refresh() {
    try {
      const { items } = await get(`/commands${queryText({ device: name, limit: LISTED })}`);
      if (isClosed) return;
      reconcile(list, items, (one) => one.id, () => el("li"), update);
      const names = [...new Set(items.map((one) => one.name))].sort();
      known.replaceChildren(...names.map((value) => el("option", { value: clean(value, 64) })));
      setText(note, items.length ? "" : "None was sent.");
    } catch (failure) {
      if (!isClosed) setText(note, failure.message);
    }
  }

  function update(node, one) {
    const text = JSON.stringify(one);
    if (node.dataset.text === text) return;
    node.dataset.text = text;
    const given = Object.keys(one.args).length ? valueText(one.args, 120) : "";
    node.className = `is-${clean(one.state, 10)}`;
    node.replaceChildren(
      el("span", { class: "call" }, quoted(one.name, 64), given && el("span", { class: "args" }, " ", quoted(given, 140))),
      el("span", { class: "ended" }, ENDS[one.state] ?? clean(one.state, 20)),
      el("time", { title: `${dateText(one.created_ms)}, by ${clean(one.issuer, 60)}` }, stampText(one.created_ms)),
      ...answer(one));
  }

  const form = el("form", { class: "call-form", on: { submit: send } },
    el("div", { class: "field" }, el("label", { for: "command" }, "Command"), command, known),
    el("div", { class: "field" }, el("label", { for: "args" }, "Arguments, as JSON"), args),
    el("div", { class: "send" },
      el("div", { class: "field" }, el("label", { for: "keep" }, "When it is away, keep"), keep), button),
    error);
  const refused = el("p", { class: "hint" }, "This token may look, not send: it lacks the scope command.");
  return {
    node: el("div", {}, isAllowed ? form : refused, list, note),
    refresh,
    show(device) {
      isOnline = device.connection.state === "online";
    },
    onEvent: (event) => event.kind === "command-ended" && refresh(),
    close() {
      isClosed = true;
    },
  };
}

/** JSON arguments; nothing is none. Throws Error for people. */
function argumentsOf(text) {
  if (!text.trim()) return {};
  let found;
  try {
    found = JSON.parse(text);
  } catch (wrong) {
    throw new Error(`The arguments are no JSON: ${wrong.message}`);
  }
  if (found === null || typeof found !== "object") {
    throw new Error('Arguments are an object, {"times": 3}, or a list, [3].');
  }
  return found;
}

const ENDS = {
  queued: "waits for the device", sent: "sent", ok: "ok", error: "failed", unknown: "no such command",
  expired: "expired before it ran", lost: "no answer: may have run",
};

function answer({ state, result, error }) {
  let text = "";
  if (state === "error") text = `${valueText(error?.type ?? "error", 60)}: ${valueText(error?.message ?? "", 300)}`;
  else if (state === "ok" && result !== null) text = valueText(result, 300);
  return text ? [el("p", { class: "result" }, quoted(text, 400))] : [];
}
