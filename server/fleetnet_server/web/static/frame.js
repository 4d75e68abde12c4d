// The newest image of a camera. What is no image, whatever the device calls it, is a file to be
// saved: the browser's own decoder decides.

import { get, queryText } from "./api.js";
import { el, quoted, setText } from "./dom.js";
import { agoText, dateText } from "./time.js";

// IANA CoAP content formats: image/jpeg, image/png.
const IMAGES = [22, 23];
const LOOKED_AT = 20;
const LISTED = 5;
// A camera may send several a second; nobody sees more than this.
const AGAIN_MS = 1_000;

export function makeFrame(name) {
  const picture = el("div", { class: "picture" });
  const note = el("p", { class: "hint" });
  const files = el("ul", { class: "files" });
  let shown = null;
  let timer = 0;
  let isClosed = false;

  async function refresh() {
    try {
      const { items } = await get(`/blobs${queryText({ device: name, limit: LOOKED_AT })}`);
      if (isClosed) return;
      const frame = items.find((one) => IMAGES.includes(one.content_format));
      if (frame && frame.id !== shown) showFrame(frame);
      files.replaceChildren(...items.slice(0, LISTED).map(fileRow));
      if (items.length) made.whenThere();
      if (!frame) setText(note, "No image among the newest files.");
    } catch (failure) {
      if (!isClosed) setText(note, failure.message);
    }
  }

  function showFrame(frame) {
    shown = frame.id;
    const image = el("img", { alt: `Newest frame of ${name}`, decoding: "async" });
    image.addEventListener("load", () => {
      if (shown !== frame.id || isClosed) return;
      image.width = image.naturalWidth;
      image.height = image.naturalHeight;
      picture.replaceChildren(image);
      const at = frame.time_ms ?? frame.received_ms;
      note.replaceChildren(el("time", { title: dateText(at) }, dateText(at)),
        `, ${image.naturalWidth} × ${image.naturalHeight}, ${sizeText(frame.size)}`);
    });
    image.addEventListener("error", () => {
      if (shown !== frame.id || isClosed) return;
      picture.replaceChildren();
      note.replaceChildren("The newest frame is no image that can be shown. ", download(frame, "Save it as a file"));
    });
    image.src = `/api/v1/blobs/${frame.id}/content`;
  }

  function fileRow(blob) {
    const at = blob.time_ms ?? blob.received_ms;
    return el("li", {}, download(blob, quoted(blob.name || `blob ${blob.id}`, 64)),
      el("span", { class: "size" }, sizeText(blob.size)),
      el("time", { title: dateText(at) }, agoText(at)));
  }

  const made = {
    node: el("div", { class: "frame" }, picture, note, files),
    whenThere() {},
    refresh,
    onEvent(event) {
      if (event.kind !== "blob-stored" || timer) return;
      timer = setTimeout(() => {
        timer = 0;
        refresh();
      }, AGAIN_MS);
    },
    close() {
      isClosed = true;
      clearTimeout(timer);
    },
  };
  return made;
}

const download = (blob, label) => el("a", { href: `/api/v1/blobs/${blob.id}/content`, download: "" }, label);

function sizeText(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  return bytes < 1 << 20 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}
