// Files of the service: fetched with the token, shown or saved from memory.

import { h } from "./dom.js";
import { show } from "./dialog.js";
import { attempt, notify } from "./notice.js";
import { renderMarkdown } from "./markdown.js";

const MAX_SHOWN_BYTES = 512 * 1024;
const IMAGES = new Set(["image/svg+xml", "image/png", "image/jpeg", "image/gif", "image/webp"]);
const OWN = /^\/v1\/(runs\/[^/?#]+\/artifacts|documents)\/[^/?#]+(\/passages\/\d+)?$/;
const PASSAGE = /\/passages\/\d+$/;
const SAVED_S = 60; // a browser may need its time to begin saving

/** The images of a page; they are let go with it. */
export class Images {
  #urls = new Set();

  /** Returns an image of a blob. As an image nothing in it runs, whatever it is. */
  image(blob, label) {
    const url = URL.createObjectURL(blob);
    this.#urls.add(url);
    return h("img", { src: url, alt: label, class: "chart" });
  }

  /** Returns where the image of a path will be, when it is fetched. */
  later(api, path, label) {
    const place = h("figure", { "aria-busy": "true" }, h("span", { class: "hint" }, "Loading ", h("bdi", {}, label), "…"));
    fetchImage(api, path).then(
      (blob) => place.replaceChildren(this.image(blob, label)),
      (error) => place.replaceChildren(h("span", { class: "hint" }, h("bdi", {}, label), ` cannot be shown: ${error.detail ?? error.message}`)),
    ).finally(() => place.removeAttribute("aria-busy"));
    return place;
  }

  close() {
    for (const url of this.#urls) URL.revokeObjectURL(url);
    this.#urls.clear();
  }
}

/** Saves a file of the service. */
export async function save(api, path, name) {
  const response = await attempt(`${name} cannot be saved`, () => api.fetch("GET", path));
  if (response === undefined) return;
  const url = URL.createObjectURL(await response.blob());
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), SAVED_S * 1000);
}

/** Shows a file of the service in a dialog, if it is text or an image; else it is saved. */
export async function view(api, path, name, size) {
  if (size > MAX_SHOWN_BYTES) {
    notify(`${name} is too large to be shown; it is saved instead.`);
    return save(api, path, name);
  }
  const response = await attempt(`${name} cannot be shown`, () => api.fetch("GET", path));
  if (response === undefined) return undefined;
  const kind = mediaType(response);
  if (!IMAGES.has(kind) && !isText(kind)) return save(api, path, name);
  const images = new Images();
  const content = IMAGES.has(kind) ? images.image(typed(await response.blob(), kind), name) : text(api, kind, await response.text(), images);
  const saveButton = h("button", { type: "button", onclick: () => save(api, path, name) }, "Download");
  show(name, content, h("div", { class: "actions" }, saveButton)).addEventListener("close", () => images.close());
  return undefined;
}

/**
 * What links and images in a text of an agent may lead to: files of the service, which are fetched with the token, and
 * other sites by http and https. Anything else stays text.
 *
 * @param {{id: number, url: string, document: string}[]} citations what `[1]` stands for
 */
export function targets(api, images, citations = []) {
  return {
    citation: (number) => {
      const found = citations.find((item) => item?.id === number && OWN.test(item.url));
      return found ? h("button", { type: "button", class: "link cite", "aria-label": `Citation ${number}`, onclick: () => open(api, found.url, found.document) }, number) : null;
    },
    link: (url, label) => {
      if (OWN.test(url)) return h("button", { type: "button", class: "link", onclick: () => open(api, url, label) }, h("bdi", {}, label));
      const parsed = parse(url);
      if (parsed === null || !["http:", "https:"].includes(parsed.protocol)) return null;
      return h("a", { href: parsed.href, rel: "noopener noreferrer", target: "_blank" }, h("bdi", {}, label || parsed.href));
    },
    image: (url, label) => (OWN.test(url) ? images.later(api, url, label) : null),
  };
}

async function open(api, path, label) {
  if (!PASSAGE.test(path)) return view(api, path, label, 0);
  const found = await attempt("The passage cannot be shown", () => api.request("GET", path));
  if (found) {
    show(found.document, h("p", { class: "hint" }, [found.heading && h("bdi", {}, found.heading), found.page === null ? null : `page ${found.page}`, `passage ${found.passage}`].filter(Boolean).flatMap((part, number) => (number ? [" · ", part] : [part]))),
      h("blockquote", { class: "passage", dir: "auto" }, found.text));
  }
  return undefined;
}

function text(api, kind, content, images) {
  if (kind === "text/markdown") return renderMarkdown(content, targets(api, images));
  return h("pre", { tabindex: "0", dir: "auto" }, content.slice(0, MAX_SHOWN_BYTES));
}

async function fetchImage(api, path) {
  const response = await api.fetch("GET", path);
  const kind = mediaType(response);
  if (!IMAGES.has(kind)) throw new Error(`it is ${kind}`);
  return typed(await response.blob(), kind);
}

function typed(blob, kind) {
  return blob.slice(0, blob.size, kind);
}

function mediaType(response) {
  return (response.headers.get("Content-Type") ?? "").split(";")[0].trim().toLowerCase();
}

function isText(kind) {
  return kind.startsWith("text/") || kind === "application/json";
}

function parse(text) {
  try {
    return new URL(text);
  } catch {
    return null;
  }
}
