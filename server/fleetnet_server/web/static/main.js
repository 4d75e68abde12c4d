// The page: who is logged in, which view is shown, and the one stream of events of this tab.

import { ask, get, whenLoggedOut } from "./api.js";
import { makeAlarms } from "./alarms.js";
import { makeDevice } from "./device.js";
import { announce, clean, el, setText } from "./dom.js";
import { makeFleet } from "./fleet.js";
import { makeLogin } from "./login.js";
import { follow } from "./stream.js";

// A browser has six connections to a server, over all tabs: one that nobody sees gives its up.
const HIDDEN_MS = 20_000;

const part = (id) => document.getElementById(id);
const content = part("content");

let session = null;
let view = null;
let stream = null;
let wasLive = false;
let newAlarms = 0;
let hiding = 0;

const allows = (scope) => session.scopes.includes(scope) || session.scopes.includes("admin");

// -- views ---------------------------------------------------------------------------------

function makeView(hash) {
  const [path, query = ""] = hash.replace(/^#/, "").split("?");
  const parts = path.split("/").filter(Boolean);
  const context = { allows, query: new URLSearchParams(query) };
  if (parts[0] === "device" && parts[1]) return makeDevice(decode(parts[1]), context);
  if (parts[0] === "alarms") return makeAlarms(context);
  return makeFleet(context);
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function show() {
  close();
  if (session === null) return;
  view = makeView(location.hash);
  content.replaceChildren(view.node);
  document.title = `${clean(view.title, 80)} – fleetnet`;
  if (view.name === "alarms") newAlarms = 0;
  showNews();
  for (const link of part("nav").querySelectorAll("a")) {
    const isHere = link.getAttribute("href") === (view.name === "alarms" ? "#/alarms" : "#/");
    if (isHere) link.setAttribute("aria-current", view.name === "device" ? "true" : "page");
    else link.removeAttribute("aria-current");
  }
  window.scrollTo(0, 0);
  view.refresh();
  listen();
}

function close() {
  stream?.close();
  stream = null;
  view?.close?.();
  view = null;
}

// -- events --------------------------------------------------------------------------------

function listen() {
  stream?.close();
  const shown = view;
  stream = follow(shown.events, {
    onEvent(event) {
      if (shown !== view) return;
      if (event.kind === "alarm" && view.name !== "alarms") {
        newAlarms += 1;
        showNews();
      }
      shown.onEvent(event);
    },
    onState(isLive, why, status) {
      if (shown !== view) return;
      if (isLive && wasLive === false) shown.refresh();
      wasLive = isLive;
      showLive(isLive, why);
      if (status === 401) loggedOut();
    },
    onGap: () => shown.refresh(),
  });
}

function showLive(isLive, why) {
  part("live").classList.toggle("is-live", isLive);
  setText(part("live"), isLive ? "Live" : "Not live");
  const banner = part("banner");
  if (isLive) {
    if (banner.childElementCount) announce("Live again.");
    banner.replaceChildren();
    return;
  }
  const text = `Not live: ${why}. What you see may be old; trying again.`;
  if (banner.firstChild?.textContent === text) return;
  const again = el("button", { type: "button", on: { click: () => stream?.hurry() } }, "Try now");
  banner.replaceChildren(el("span", {}, text), again);
}

function showNews() {
  const badge = part("news");
  badge.hidden = newAlarms === 0;
  setText(badge, newAlarms ? `${newAlarms > 99 ? "99+" : newAlarms} new` : "");
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => {
      stream?.close();
      stream = null;
      wasLive = false;
    }, HIDDEN_MS);
  } else if (view && !stream) listen();
});

// -- who is here -----------------------------------------------------------------------------

function loggedIn(found) {
  session = found;
  part("nav").hidden = part("who").hidden = false;
  setText(part("holder"), `${clean(session.name, 40)} (${session.scopes.join(", ")})`);
  show();
}

function loggedOut(why = "") {
  close();
  session = null;
  wasLive = false;
  part("nav").hidden = part("who").hidden = true;
  part("banner").replaceChildren();
  document.title = "Log in – fleetnet";
  const login = makeLogin(loggedIn, why);
  content.replaceChildren(login.node);
  login.focus();
}

whenLoggedOut(() => session && loggedOut("The server no longer takes this token: log in again."));

part("leave").addEventListener("click", async () => {
  await ask("DELETE", "/session").catch(() => {});
  loggedOut("You are logged out. The token stays good.");
});

part("skip").addEventListener("click", (event) => {
  // The address is the view's: it must not become #content.
  event.preventDefault();
  content.focus();
  content.scrollIntoView();
});

window.addEventListener("hashchange", () => {
  show();
  // A screen reader hears what is shown now; nothing is outlined.
  const heading = content.querySelector("h1");
  if (heading) {
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }
});

get("/session", { isLogin: true }).then(loggedIn, (error) => {
  loggedOut(error.status === 401 ? "" : error.message);
});
