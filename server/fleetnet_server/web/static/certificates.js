// Certificates of a device, the newest first.

import { devicePath, get } from "./api.js";
import { clean, el, setText } from "./dom.js";
import { dateText, now, untilText } from "./time.js";

const LISTED = 10;

export function makeCertificates(name) {
  const body = el("tbody");
  const note = el("p", { class: "hint" });
  const heads = ["Serial number", "State", "Ends", "Issued", "Key made by", "CA"];
  const table = el("table", { class: "certificates" },
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))), body);
  let isClosed = false;

  async function refresh() {
    try {
      const { certificates, identities } = await get(devicePath(name, "/identities"));
      if (isClosed) return;
      const states = new Map(identities.map((one) => [one.serial, one]));
      body.replaceChildren(...certificates.slice(0, LISTED).map((one) => row(one, states.get(one.serial), heads)));
      table.hidden = !certificates.length;
      const more = certificates.length - LISTED;
      setText(note, !certificates.length ? "None: this device uses a key, or nothing was issued." : more > 0 ? `${more} older ones are not shown.` : "");
    } catch (failure) {
      if (!isClosed) setText(note, failure.message);
    }
  }

  return {
    node: el("div", {}, table, note),
    refresh,
    close() {
      isClosed = true;
    },
  };
}

function row(one, identity, heads) {
  const state = one.revoked_ms !== null ? `revoked (${one.reason ?? "no reason"})`
    : one.not_after_ms < now() ? "expired" : identity?.state ?? "good";
  const cells = [
    el("code", { class: "serial", title: one.serial }, one.serial.length > 20 ? `${one.serial.slice(0, 20)}…` : one.serial),
    clean(state, 80),
    el("time", { title: dateText(one.not_after_ms) }, `${dateText(one.not_after_ms).slice(0, 10)} (${untilText(one.not_after_ms)})`),
    el("time", { title: dateText(one.issued_ms) }, dateText(one.issued_ms).slice(0, 10)),
    clean(one.key_made || "–", 30),
    one.generation ? String(one.generation) : "–",
  ];
  return el("tr", { class: one.revoked_ms !== null ? "is-revoked" : null },
    cells.map((cell, index) => el("td", { "data-label": heads[index] }, cell)));
}
