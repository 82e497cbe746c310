// Times, sizes and names, as people read them.

import { h } from "./dom.js";

const RELATIVE = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });
const ABSOLUTE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const UNITS = [["day", 86_400], ["hour", 3_600], ["minute", 60]];
const SUMMARY_CHARS = 160;

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 1) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3_600)} h ${Math.floor((seconds % 3_600) / 60)} min`;
}

export function bytes(count) {
  if (count < 1_000) return `${count} B`;
  if (count < 1_000_000) return `${(count / 1_000).toFixed(count < 10_000 ? 1 : 0)} kB`;
  return `${(count / 1_000_000).toFixed(1)} MB`;
}

/** Returns one of two words for a count. */
export function plural(count, one, several = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : several}`;
}

/** The end of an id tells runs of one minute apart, its beginning does not. */
export function shortId(id) {
  return id.length > 10 ? `…${id.slice(-8)}` : id;
}

/** What a run was asked, in one line. */
export function summary(input) {
  const values = input !== null && typeof input === "object" ? Object.values(input) : [input];
  const text = values.find((value) => typeof value === "string" && value.trim()) ?? JSON.stringify(input) ?? "";
  const line = text.slice(0, 4 * SUMMARY_CHARS).replace(/\s+/g, " ").trim();
  return line.length > SUMMARY_CHARS ? `${line.slice(0, SUMMARY_CHARS - 1)}…` : line;
}

function whole(seconds) {
  return seconds < 60 ? `${seconds} s` : duration(seconds);
}

/** Seconds between two moments; to now, if the second is null. */
export function secondsBetween(start, end) {
  return Math.max(0, ((end === null ? Date.now() : Date.parse(end)) - Date.parse(start)) / 1000);
}

/** "3 min ago", kept up to date; the moment itself in its title. */
export function ago(iso) {
  return ticking(h("time", { datetime: iso, title: ABSOLUTE.format(new Date(iso)) }), () => relative(iso));
}

/** How long something has gone on, counting. */
export function elapsed(iso) {
  return ticking(h("span", { class: "number" }), () => whole(Math.floor(secondsBetween(iso, null))));
}

/** "in about 12 s", counting down to a moment in milliseconds since 1970. */
export function until(moment) {
  return ticking(h("span", { class: "number" }), () => {
    const seconds = Math.ceil((moment - Date.now()) / 1000);
    return seconds > 1 ? `in about ${whole(seconds)}` : "any moment";
  });
}

function relative(iso) {
  const seconds = (Date.parse(iso) - Date.now()) / 1000;
  const unit = UNITS.find(([, size]) => Math.abs(seconds) >= size);
  return unit ? RELATIVE.format(Math.round(seconds / unit[1]), unit[0]) : seconds < -4 ? `${Math.round(-seconds)} s ago` : "just now";
}

const clocks = new Map();

/** Has an element say what `text` returns, every second for as long as it is on the page. */
export function ticking(element, text) {
  element.textContent = text();
  clocks.set(element, text);
  return element;
}

setInterval(() => {
  for (const [element, text] of clocks) {
    if (!element.isConnected) {
      clocks.delete(element);
      continue;
    }
    const now = text();
    if (element.textContent !== now) element.textContent = now;
  }
}, 1_000);
