// Enabling, disabling and revoking a device, each behind a question.

import { ask, devicePath, queryText } from "./api.js";
import { announce, el, quoted, setText } from "./dom.js";

const REASONS = [
  ["unspecified", "Unspecified"], ["key-compromise", "Its key may be known to others"], ["superseded", "Replaced by another device"],
  ["cessation", "Out of use"], ["affiliation", "It changed hands"], ["privilege", "It may no longer come in"],
];

export function makeRegistration(name, isAllowed, onDone) {
  const state = el("p", {});
  const enable = el("button", { type: "button", on: { click: () => question({
    title: "Enable", text: "The server will accept it again, and what it kept back is shown.",
    button: "Enable", path: "/enable",
  }) } }, "Enable…");
  const disable = el("button", { type: "button", on: { click: () => question({
    title: "Disable", text: "Its session ends now, and it is refused until it is enabled. Nothing is lost: it keeps its messages as long as it can.",
    button: "Disable", path: "/disable",
  }) } }, "Disable…");
  const revoke = el("button", { type: "button", class: "danger", on: { click: () => question({
    title: "Revoke", text: "All its certificates and keys are refused for ever. To come back it has to be provisioned anew.",
    button: "Revoke for ever", path: "/revoke", isFinal: true,
  }) } }, "Revoke…");

  function question({ title, text, button, path, isFinal }) {
    const error = el("p", { class: "error", role: "alert" });
    const typed = el("input", { id: "confirm-name", autocomplete: "off", autocapitalize: "off", spellcheck: "false", on: { input: check } });
    const reason = el("select", { id: "confirm-reason" }, REASONS.map(([value, label]) => el("option", { value }, label)));
    const go = el("button", { type: "submit", class: isFinal ? "danger" : "primary", disabled: Boolean(isFinal) }, button);
    const cancel = el("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel");
    function check() {
      go.disabled = typed.value !== name;
    }
    async function send(event) {
      event.preventDefault();
      go.disabled = true;
      try {
        await ask("POST", devicePath(name, path + (isFinal ? queryText({ reason: reason.value }) : "")));
        dialog.close();
        announce(`${title}: done.`);
        onDone();
      } catch (refused) {
        setText(error, refused.message);
        go.disabled = false;
      }
    }
    const dialog = el("dialog", { "aria-labelledby": "confirm-title", on: { close: () => dialog.remove() } },
      el("form", { on: { submit: send } },
        el("h2", { id: "confirm-title" }, `${title} `, quoted(name, 80), "?"),
        el("p", {}, text),
        isFinal && el("div", { class: "field" }, el("label", { for: "confirm-reason" }, "Reason"), reason),
        isFinal && el("div", { class: "field" }, el("label", { for: "confirm-name" }, "Type its name to go on"), typed),
        error,
        el("div", { class: "buttons" }, cancel, go)));
    document.body.append(dialog);
    dialog.showModal();
  }

  const buttons = el("div", { class: "buttons" }, enable, disable, revoke);
  const refused = el("p", { class: "hint" }, "Changing it needs a token with the scope admin.");
  return {
    node: el("div", {}, state, isAllowed ? buttons : refused),
    show(device) {
      const lacks = device.state === "disabled" ? undefined : LACKS[device.credential];
      setText(state, lacks ?? TEXTS[device.state] ?? device.state);
      enable.hidden = device.state === "enabled";
      disable.hidden = device.state === "disabled";
    },
    close() {
      document.querySelector("dialog")?.close();
    },
  };
}

// What it is registered as counts for nothing then.
const LACKS = {
  revoked: "Revoked: all its certificates are refused. “fleetnet device add --again” makes it a new bundle.",
  expired: "Its certificate has expired: it is refused. “fleetnet device add --again” makes it a new bundle.",
};

const TEXTS = {
  enabled: "Enabled: it is accepted.",
  disabled: "Disabled: it is refused.",
  quarantined: "Quarantined: it is accepted, and its readings are kept back until it is enabled.",
};
