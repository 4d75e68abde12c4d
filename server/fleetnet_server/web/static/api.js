// The HTTP API. The token lives in a cookie that no script can read.

/** An answer that is no success: `status` (0: no answer at all), `message` for people. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let onLoggedOut = () => {};

/** Have `listener` called when the server no longer knows the token. */
export function whenLoggedOut(listener) {
  onLoggedOut = listener;
}

/** Ask for JSON. Throws Refused. */
export async function ask(method, path, body, options = {}) {
  let answer;
  try {
    answer = await fetch(`/api/v1${path}`, {
      method,
      body: body === undefined ? undefined : JSON.stringify(body),
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      signal: options.signal,
      credentials: "same-origin",
      redirect: "error",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer.");
  }
  if (answer.status === 204) return null;
  const document = await answer.json().catch(() => null);
  options.signal?.throwIfAborted();
  if (answer.ok) return document;
  if (answer.status === 401 && !options.isLogin) onLoggedOut();
  throw new Refused(answer.status, String(document?.detail ?? `The server answered ${answer.status}.`));
}

export const get = (path, options) => ask("GET", path, undefined, options);

/** A path of a device; names are checked by the server, and written so that they stay one part. */
export const devicePath = (name, rest = "") => `/devices/${part(name)}${rest}`;

/** Where the page of a device is. */
export const deviceLink = (name) => `#/device/${part(name)}`;

// Half a surrogate pair has no UTF-8: encodeURIComponent would throw.
const part = (name) => encodeURIComponent(String(name).toWellFormed());

/** "?a=1&b=2", without what is empty. */
export function queryText(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined && value !== false);
  const text = new URLSearchParams(pairs).toString();
  return text ? `?${text}` : "";
}
