// Times as people read them: relative while near, dates with their zone otherwise.

let offsetMs = 0;

/** Go by the server's clock: ages are wrong by what the browser's is wrong. */
export function setServerTime(unixMs) {
  offsetMs = unixMs - Date.now();
}

/** Unix ms by the server's clock. */
export const now = () => Date.now() + offsetMs;

const STEPS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

/** "12 s", "3 min", "2 h", "5 d": of a length of time in ms, its largest unit. */
export function lengthText(ms) {
  const seconds = Math.abs(ms) / 1000;
  if (seconds < 1) return `${Math.round(Math.abs(ms))} ms`;
  const [size, unit] = STEPS.find(([step]) => seconds >= step);
  return `${Math.floor(seconds / size)} ${unit}`;
}

/** The age of a reading when it arrived; with a minus when its clock is ahead of the server's. */
export const lagText = (ms) => (ms <= -1000 ? `\u2212${lengthText(ms)}` : lengthText(Math.max(0, ms)));

/** "3 min ago", "now"; "" for null. */
export function agoText(unixMs, nowMs = now()) {
  if (unixMs === null || unixMs === undefined) return "";
  const ms = nowMs - unixMs;
  if (ms < -1500) return `in ${lengthText(ms)}`;
  return ms < 1500 ? "now" : `${lengthText(ms)} ago`;
}

/** "in 89 d", "5 h ago". */
export function untilText(unixMs, nowMs = now()) {
  if (unixMs === null || unixMs === undefined) return "";
  return unixMs > nowMs ? `in ${lengthText(unixMs - nowMs)}` : `${lengthText(nowMs - unixMs)} ago`;
}

const pad = (number, width = 2) => String(number).padStart(width, "0");

/** "2026-11-21 13:05:09", in the browser's own zone; what is no date of a calendar, as it is. */
export function dateText(unixMs) {
  if (unixMs === null || unixMs === undefined) return "no date";
  const date = new Date(unixMs);
  if (Number.isNaN(date.getTime())) return String(unixMs);
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())} ${clockText(unixMs)}`;
}

/** "13:05:09". */
export function clockText(unixMs, withSeconds = true) {
  const date = new Date(unixMs);
  const minutes = `${pad(date.getHours())}:${pad(date.getMinutes())}`;
  return withSeconds ? `${minutes}:${pad(date.getSeconds())}` : minutes;
}

/** Times of a list: the clock alone for today. */
export function stampText(unixMs, nowMs = now()) {
  if (unixMs === null || unixMs === undefined) return "no date";
  return dateText(unixMs).slice(0, 10) === dateText(nowMs).slice(0, 10) ? clockText(unixMs) : dateText(unixMs);
}
