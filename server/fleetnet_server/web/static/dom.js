// Elements out of text. What devices send reaches the page here and nowhere else: as text nodes
// and checked attributes, never as markup.

// Longer texts are cut where they are shown; the API has them whole.
const SHOWN = 300;

// Controls would vanish, and bidirectional ones reorder what stands around them: both are shown.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff0-\ufffb]|[\u{e0000}-\u{e007f}]|[\ud800-\udfff]/gu;

const escaped = (found) => {
  const code = found.codePointAt(0);
  return code > 0xffff ? `\\u{${code.toString(16)}}` : `\\u${code.toString(16).padStart(4, "0")}`;
};

/** A hostile text as one that shows what it is, in at most `most` characters. */
export function clean(text, most = SHOWN) {
  const whole = String(text);
  const cut = whole.length > most ? whole.slice(0, most) : whole;
  const shown = cut.replace(HIDDEN, (found) => (found === "\n" || found === "\t" ? " " : escaped(found)));
  return whole.length > most ? `${shown}… (${whole.length.toLocaleString("en")} characters)` : shown;
}

/** Any JSON value as one line. */
export function valueText(value, most = SHOWN) {
  if (typeof value === "string") return clean(value, most);
  if (typeof value === "number") return numberText(value);
  return clean(JSON.stringify(value) ?? "", most);
}

/** A number as people read it: six digits, no exponent where none is needed. */
export function numberText(value) {
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e9)) return value.toPrecision(4);
  return value.toLocaleString("en", { maximumSignificantDigits: 6 });
}

/** Text of a device, kept from mixing with the page's own direction. */
export const quoted = (text, most) => el("bdi", { class: "quoted" }, clean(text, most));

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element. Attributes: `class`, `hidden`, `on` ({event: listener}), others as they are;
 * false and null leave one out. Children: nodes, or anything else as text.
 */
export const el = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
export const svg = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Change text only when it is another one: selections and screen readers stay where they are. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Give a list of rows to a parent, by key: rows that stay are kept, with their focus. */
export function reconcile(parent, rows, keyOf, make, update) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let at = parent.firstElementChild;
  for (const row of rows) {
    const key = keyOf(row);
    let node = before.get(key);
    if (node) before.delete(key);
    else {
      node = make(row);
      node.dataset.key = key;
    }
    update(node, row);
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
  for (const gone of before.values()) gone.remove();
}

/** Tell a screen reader, politely. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}
