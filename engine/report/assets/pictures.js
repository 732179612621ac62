// Pictures that are loaded when they come into view, and say so where they cannot be shown.

import { element } from "./dom.js";

// A tile that is scrolled past within this time never asks for its picture.
const PATIENCE_MS = 60;

/**
 * Return a picture that tries addresses in turn, null among them being none, with a remark in its place where all fail.
 * `drawing` lies over it once it is there. `size` is that of the photo as displayed.
 */
export function picture(addresses, drawing, remark, { patient = false, size = null } = {}) {
  const frame = element("div", { class: "picture" });
  const remaining = addresses.filter((address) => address);
  const image = element("img", {
    alt: "",
    decoding: "async",
    draggable: "false",
    onload: () => (isOnItsSide(image, size) ? next() : frame.classList.add("loaded")),
    onerror: () => next(),
  });

  function next() {
    const address = remaining.shift();
    if (address === undefined) {
      image.remove();
      frame.classList.add("loaded"); // what was found is shown without it
      frame.prepend(element("p", { class: "missing" }, remark));
    } else {
      image.src = address;
    }
  }

  frame.append(image, drawing);
  if (patient) setTimeout(() => frame.isConnected && next(), PATIENCE_MS);
  else next();
  return frame;
}

/** Whether a photo is not turned as its EXIF orientation says, which browsers leave aside in WebP. */
function isOnItsSide({ naturalWidth, naturalHeight }, size) {
  return size !== null && size[0] !== size[1] && naturalWidth === size[1] && naturalHeight === size[0];
}

/** The thumbnails that a page carries, in parts that are read when one of them is first asked for. */
export class Thumbnails {
  constructor(perPart) {
    this.perPart = perPart;
    this.parts = new Map();
  }

  /** Return the address of image number i; null where the page has none. */
  address(i) {
    if (this.perPart === null) return null;
    const part = Math.floor(i / this.perPart);
    if (!this.parts.has(part)) {
      this.parts.set(part, JSON.parse(document.getElementById(`thumbnails-${part}`)?.textContent ?? "[]"));
    }
    return this.parts.get(part)[i % this.perPart] || null;
  }
}
