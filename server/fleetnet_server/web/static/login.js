// Logging in: the token goes to the server once and comes back as a cookie that scripts cannot
// read. It is kept nowhere else.

import { ask, Refused } from "./api.js";
import { el, setText } from "./dom.js";

export function makeLogin(onDone, why) {
  const token = el("input", {
    id: "token", type: "password", name: "token", required: true, maxlength: 100,
    autocomplete: "current-password", autocapitalize: "off", spellcheck: "false",
    "aria-describedby": "token-help login-error",
  });
  const error = el("p", { class: "error", id: "login-error", role: "alert" });
  const button = el("button", { type: "submit", class: "primary" }, "Log in");

  async function send(event) {
    event.preventDefault();
    button.disabled = true;
    setText(error, "");
    try {
      const session = await ask("POST", "/session", { token: token.value.trim() }, { isLogin: true });
      token.value = "";
      if (!session.scopes.includes("read") && !session.scopes.includes("admin")) {
        await ask("DELETE", "/session");
        throw new Refused(403, "This token may not look: it lacks the scope read.");
      }
      onDone(session);
    } catch (refused) {
      setText(error, refused.message);
      button.disabled = false;
      token.select();
    }
  }

  const node = el("section", { class: "login" },
    el("h1", {}, "Log in"),
    why && el("p", { class: "why", role: "status" }, why),
    el("form", { on: { submit: send } },
      el("label", { for: "token" }, "Token"),
      token,
      el("p", { class: "hint", id: "token-help" }, "Make one on the server: ",
        el("code", {}, "fleetnet token add NAME --scope read"),
        ". Sending commands needs --scope command as well, setting configurations --scope config."),
      button,
      error));
  return { node, focus: () => token.focus() };
}
