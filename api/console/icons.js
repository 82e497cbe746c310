// Small drawings beside words; they say nothing that the words don't.

const NAMESPACE = "http://www.w3.org/2000/svg";
const PATHS = {
  plus: "M8 3v10M3 8h10",
  copy: "M6 6h7v7H6zM10 6V3H3v7h3",
  check: "M3 8.5l3.5 3.5L13 4.5",
  cross: "M4 4l8 8M12 4l-8 8",
  download: "M8 3v7M5 7.5L8 10.5l3-3M3 13h10",
  upload: "M8 11V4M5 6.5L8 3.5l3 3M3 13h10",
  trash: "M3 5h10M6.5 5V3h3v2M4.5 5l.7 8h5.6l.7-8",
  file: "M4 2h5l3 3v9H4zM9 2v3h3",
  retry: "M13 8a5 5 0 1 1-1.5-3.5M12 2v3H9",
  stop: "M4.5 4.5h7v7h-7z",
  tool: "M3 4.5L6.5 8 3 11.5M8.5 11.5H13",
  lane: "M2 4h12M2 8h8M2 12h5",
  history: "M8 4.5V8l2.5 1.5M2.5 8A5.5 5.5 0 1 0 4 4.2M2.5 2.5v2.8h2.8",
  thread: "M3 3h10v7H7l-3 3v-3H3z",
  leave: "M9 3H4v10h5M7.5 8H14M11.5 5.5L14 8l-2.5 2.5",
};

/** Returns the drawing of that name. */
export function icon(name) {
  const svg = document.createElementNS(NAMESPACE, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(NAMESPACE, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}
