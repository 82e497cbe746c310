// Markdown to elements: the part of it that reports are written in. All else stays text, markup above all.

import { append, h } from "./dom.js";

const MAX_CHARS = 256 * 1024;
const MAX_BLOCKS = 4_000;
const MAX_SPAN_CHARS = 1_000; // what a mark may enclose: beyond that it is no mark, so that time stays linear
const MAX_DELIMITER_CHARS = 1_000;
const MAX_DEPTH = 8;
const FENCE = /^(`{3,}|~{3,})\s*(\S*)/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const RULE = /^([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^(?:[-*+]|(\d{1,9})[.)])\s+/;
const QUOTE = /^> ?/;
const DELIMITER = /^\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const ESCAPABLE = /[!-/:-@[-`{-~]/;

/**
 * Returns elements for a text.
 *
 * @param {string} text
 * @param {object} targets
 * @param {(url: string, label: string) => Node | null} targets.link null: the label stays text
 * @param {(url: string, label: string) => Node | null} targets.image likewise
 * @param {(number: number) => Node | null} targets.citation null: `[1]` stays text
 */
export function renderMarkdown(text, targets) {
  const lines = text.slice(0, MAX_CHARS).replace(/\r\n?/g, "\n").split("\n");
  const found = h("div", { class: "prose", dir: "auto" });
  const blocks = new Blocks(targets);
  append(found, blocks.render(lines, 0));
  if (text.length > MAX_CHARS || blocks.left === 0) found.append(h("p", { class: "hint" }, "The rest is too long to be shown here."));
  return found;
}

class Blocks {
  /** So many more are made. */
  left = MAX_BLOCKS;
  #targets;

  constructor(targets) {
    this.#targets = targets;
  }

  /** Takes lines as blocks, one after the other. */
  render(lines, depth) {
    const found = [];
    let at = 0;
    while (at < lines.length && this.left > 0) {
      if (lines[at].trim() === "") {
        at += 1;
        continue;
      }
      const [block, next] = this.#block(lines, at, depth);
      found.push(block);
      this.left -= 1;
      at = next;
    }
    return found;
  }

  #block(lines, at, depth) {
    const line = lines[at];
    const heading = HEADING.exec(line);
    // The page has an h1 of its own.
    if (heading) return [h(`h${Math.min(6, heading[1].length + 1)}`, {}, this.#inline(heading[2])), at + 1];
    if (FENCE.test(line)) return this.#fence(lines, at);
    if (RULE.test(line)) return [h("hr"), at + 1];
    if (line.includes("|") && isDelimiter(lines[at + 1])) return this.#table(lines, at);
    if (depth < MAX_DEPTH && QUOTE.test(line)) return this.#quote(lines, at, depth);
    if (depth < MAX_DEPTH && ITEM.test(line)) return this.#list(lines, at, depth);
    return this.#paragraph(lines, at);
  }

  #fence(lines, at) {
    const [, ticks] = FENCE.exec(lines[at]);
    let end = at + 1;
    while (end < lines.length && !(lines[end].startsWith(ticks) && lines[end].trim() === ticks)) end += 1;
    return [h("pre", { tabindex: "0" }, h("code", {}, lines.slice(at + 1, end).join("\n"))), end + 1];
  }

  #quote(lines, at, depth) {
    let end = at;
    while (end < lines.length && QUOTE.test(lines[end])) end += 1;
    const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
    return [h("blockquote", {}, this.render(inner, depth + 1)), end];
  }

  #list(lines, at, depth) {
    const [, number] = ITEM.exec(lines[at]);
    const list = h(number ? "ol" : "ul", { start: number && number !== "1" ? number : null });
    let end = at;
    while (end < lines.length) {
      const marker = ITEM.exec(lines[end]);
      if (!marker || Boolean(marker[1]) !== Boolean(number)) break;
      const inner = [lines[end].slice(marker[0].length)];
      end += 1;
      // What is indented belongs to the item, also after an empty line.
      while (end < lines.length && (/^\s{2,}\S/.test(lines[end]) || (lines[end].trim() === "" && /^\s{2,}\S/.test(lines[end + 1] ?? "")))) {
        inner.push(lines[end].replace(/^\s{2,4}/, ""));
        end += 1;
      }
      list.append(h("li", {}, inner.length === 1 ? this.#inline(inner[0]) : this.render(inner, depth + 1)));
    }
    return [list, end];
  }

  #table(lines, at) {
    const sides = cells(lines[at + 1]).map((cell) => (/^:-+:$/.test(cell) ? "center" : cell.endsWith(":") ? "right" : null));
    const row = (line, name) => h("tr", {}, cells(line).map((cell, place) => h(name, { "data-align": sides[place], scope: name === "th" ? "col" : null }, this.#inline(cell))));
    let end = at + 2;
    while (end < lines.length && lines[end].includes("|") && lines[end].trim() !== "") end += 1;
    const table = h("table", {}, h("thead", {}, row(lines[at], "th")), h("tbody", {}, lines.slice(at + 2, end).map((line) => row(line, "td"))));
    return [h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Table" }, table), end];
  }

  #paragraph(lines, at) {
    let end = at + 1;
    while (end < lines.length && lines[end].trim() !== "" && !HEADING.test(lines[end]) && !FENCE.test(lines[end]) && !QUOTE.test(lines[end]) && !ITEM.test(lines[end])) end += 1;
    const content = lines.slice(at, end).flatMap((line, number) => [
      this.#inline(line.trim()), number < end - at - 1 ? (/ {2}$|\\$/.test(line) ? h("br") : " ") : null,
    ]);
    return [h("p", {}, content), end];
  }

  #inline(text) {
    return new Inline(text, this.#targets).render();
  }
}

/** The words of one line. Each character is looked at once or, in search of what ends a mark, a bounded number of times. */
class Inline {
  #text;
  #targets;

  constructor(text, targets) {
    this.#text = text;
    this.#targets = targets;
  }

  render(depth = 0) {
    const found = [];
    let plain = "";
    let at = 0;
    while (at < this.#text.length) {
      const char = this.#text[at];
      if (char === "\\" && ESCAPABLE.test(this.#text[at + 1] ?? "")) {
        plain += this.#text[at + 1];
        at += 2;
        continue;
      }
      const mark = depth < MAX_DEPTH && "`*_[!".includes(char) ? this.#mark(at, depth) : null;
      if (mark === null) {
        plain += char;
        at += 1;
      } else {
        found.push(plain, mark.node);
        plain = "";
        at = mark.end;
      }
    }
    return [...found, plain].filter((item) => item !== "");
  }

  #mark(at, depth) {
    const char = this.#text[at];
    if (char === "`") return this.#span(at, "`", "code", null);
    if (char === "!") return this.#text[at + 1] === "[" ? this.#target(at + 1, this.#targets.image) : null;
    if (char === "[") return this.#target(at, this.#targets.link);
    const strong = this.#text[at + 1] === char;
    if (char === "_" && /\w/.test(this.#text[at - 1] ?? "")) return null;
    return this.#span(at, strong ? char + char : char, strong ? "strong" : "em", depth);
  }

  #span(at, mark, name, depth) {
    const start = at + mark.length;
    const end = this.#find(mark, start);
    if (end <= start || /\s/.test(this.#text[start])) return null;
    const inner = this.#text.slice(start, end);
    return { node: h(name, {}, depth === null ? inner : new Inline(inner, this.#targets).render(depth + 1)), end: end + mark.length };
  }

  /** `[label](url)`, or `[1]`: a citation. */
  #target(at, make) {
    const middle = this.#find("]", at + 1);
    const inner = middle < 0 ? "[" : this.#text.slice(at + 1, middle);
    if (/(?<!\\)\[/.test(inner)) return null;
    if (this.#text[middle + 1] !== "(") {
      const node = /^\d{1,4}$/.test(inner) ? this.#targets.citation(Number(inner)) : null;
      return node && { node, end: middle + 1 };
    }
    const end = this.#find(")", middle + 2);
    if (end < 0) return null;
    const label = unescape(inner);
    const node = make(this.#text.slice(middle + 2, end), label) ?? h("span", {}, label);
    return { node, end: end + 1 };
  }

  /** Returns where a mark stands next, unless with a backslash before it; -1: nowhere near. */
  #find(mark, from) {
    const near = this.#text.slice(from, from + MAX_SPAN_CHARS);
    let at = near.indexOf(mark);
    while (at > 0 && near[at - 1] === "\\") at = near.indexOf(mark, at + 1);
    return at < 0 ? -1 : from + at;
  }
}

function isDelimiter(line = "") {
  return line.length <= MAX_DELIMITER_CHARS && DELIMITER.test(line);
}

function unescape(text) {
  return text.replace(/\\([!-/:-@[-`{-~])/g, "$1");
}

/** Returns the cells of a table's line; `\|` is no border. */
function cells(line) {
  const trimmed = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return trimmed.split(/(?<!\\)\|/).map((cell) => cell.trim());
}
