// The fields of a form, each for a kind of value.

import { fill, foreign, h, newId } from "./dom.js";
import { exact, exactJson } from "./numbers.js";

const LINE_CHARS = 200; // a text that may be longer gets several lines

/** A label, what it is for, a control, and what is wrong with it. */
class Field {
  constructor(name, schema, required) {
    this.name = name;
    this.schema = schema;
    this.required = required;
    this.id = newId("field");
    this.error = h("p", { id: `${this.id}-error`, class: "error" });
  }

  /** Attributes that every control has. */
  get common() {
    return { id: this.id, "aria-describedby": `${this.id}-help ${this.id}-error`, "aria-required": this.required ? "true" : null };
  }

  build(control, ...more) {
    this.control = control;
    const word = this.name || "input";
    this.element = h("div", { class: "field" },
      h("label", { for: this.id }, foreign(word), !this.required && h("span", { class: "hint" }, " optional")), control, ...more, this.help(), this.error);
  }

  help() {
    return h("p", { id: `${this.id}-help`, class: "hint" }, foreign(this.schema.description ?? ""));
  }

  say(message) {
    fill(this.error, message);
    this.element.toggleAttribute("data-invalid", message !== "");
    if (message) this.control.setAttribute("aria-invalid", "true");
    else this.control.removeAttribute("aria-invalid");
  }

  get raw() {
    return this.control.value;
  }

  set raw(raw) {
    this.control.value = raw;
  }

  /** What to begin with. */
  initial(value) {
    return value ?? this.schema.default ?? null;
  }

  missing() {
    if (this.required) throw new Error("This is needed.");
    return undefined;
  }
}

export class TextField extends Field {
  #count = h("p", { id: `${this.id}-count`, class: "hint" });

  constructor(name, schema, required, value, documents) {
    super(name, schema, required);
    const example = typeof schema.examples?.[0] === "string" ? `e.g. ${schema.examples[0]}` : null;
    const long = !documents && (schema.maxLength ?? Infinity) > LINE_CHARS;
    const list = documents && h("datalist", { id: `${this.id}-list` }, documents.map((item) => h("option", { value: item.name })));
    const attributes = {
      ...this.common, placeholder: example, spellcheck: "false", autocomplete: "off", dir: "auto", oninput: () => this.#showCount(),
      "aria-describedby": `${this.common["aria-describedby"]} ${this.id}-count`,
    };
    this.build(long ? h("textarea", { ...attributes, rows: schema.maxLength > 5_000 ? 5 : 3 }) : h("input", { type: "text", list: list && list.id, ...attributes }), list, this.#count);
    this.control.value = this.initial(value) ?? "";
    this.#showCount();
  }

  read() {
    const { maxLength } = this.schema;
    if (this.#length > maxLength) throw new Error(`${this.name} is too long: ${countOf(this.#length, maxLength)}.`);
    return this.control.value === "" ? this.missing() : this.control.value;
  }

  /** As the service counts: a character may be two units of UTF-16. */
  get #length() {
    return [...this.control.value].length;
  }

  /** In place of `maxlength`, with which a browser cuts the end off of what is pasted without a word. */
  #showCount() {
    const { maxLength } = this.schema;
    if (maxLength === undefined) return;
    this.#count.className = this.#length > maxLength ? "error" : "hint";
    fill(this.#count, countOf(this.#length, maxLength));
  }
}

function countOf(length, most) {
  return `${length.toLocaleString("en")} of at most ${most.toLocaleString("en")} characters`;
}

export class NumberField extends Field {
  constructor(name, schema, required, value) {
    super(name, schema, required);
    const whole = schema.type === "integer";
    this.build(h("input", { type: "number", ...this.common, min: schema.minimum, max: schema.maximum, step: whole ? 1 : "any" }));
    this.control.value = this.initial(value) ?? "";
  }

  read() {
    if (this.control.validity.badInput) throw new Error("This is not a number.");
    return this.control.value === "" ? this.missing() : exact(this.control.value);
  }
}

export class ChoiceField extends Field {
  constructor(name, schema, required, value) {
    super(name, schema, required);
    const none = required ? null : h("option", { value: "" }, "not set");
    this.build(h("select", this.common, none, schema.enum.map((choice, number) => h("option", { value: number }, String(choice)))));
    const first = schema.enum.indexOf(this.initial(value));
    this.control.value = first >= 0 ? String(first) : required ? "0" : "";
  }

  read() {
    return this.control.value === "" ? undefined : this.schema.enum[Number(this.control.value)];
  }
}

export class BooleanField extends Field {
  constructor(name, schema, required, value) {
    super(name, schema, required);
    this.build(h("input", { type: "checkbox", ...this.common }));
    this.element.classList.add("check");
    this.control.checked = this.initial(value) === true;
  }

  get raw() {
    return this.control.checked;
  }

  set raw(raw) {
    this.control.checked = raw;
  }

  read() {
    const untouched = !this.required && this.schema.default === undefined && !this.control.checked;
    return untouched ? undefined : this.control.checked;
  }
}

/** A list of texts, one a line. */
export class LinesField extends Field {
  constructor(name, schema, required, value) {
    super(name, schema, required);
    this.build(h("textarea", { ...this.common, rows: 3, placeholder: "one a line", spellcheck: "false", dir: "auto" }));
    this.control.value = (this.initial(value) ?? []).join("\n");
  }

  read() {
    const lines = this.control.value.split("\n").map((line) => line.trim()).filter(Boolean);
    return lines.length > 0 ? lines : this.required ? [] : undefined;
  }
}

/** Some of the user's documents. */
export class DocumentsField extends Field {
  constructor(name, schema, required, documents, value) {
    super(name, schema, required);
    const chosen = new Set(this.initial(value) ?? []);
    const box = (item) => h("label", {}, h("input", { type: "checkbox", value: item.name, checked: chosen.has(item.name) }), foreign(item.name));
    this.control = h("fieldset", { id: this.id, tabindex: "-1", "aria-describedby": `${this.id}-help ${this.id}-error` },
      h("legend", {}, foreign(name), !required && h("span", { class: "hint" }, " optional")), h("div", { class: "choices" }, documents.map(box)));
    this.element = h("div", { class: "field" }, this.control, this.help(), this.error);
  }

  get raw() {
    return [...this.control.querySelectorAll("input:checked")].map((box) => box.value);
  }

  set raw(raw) {
    for (const box of this.control.querySelectorAll("input")) box.checked = raw.includes(box.value);
  }

  read() {
    const chosen = this.raw;
    return chosen.length > 0 ? chosen : this.required ? [] : undefined;
  }
}

/** Anything else. */
export class JsonField extends Field {
  constructor(name, schema, required, value) {
    super(name, schema, required);
    const example = schema.examples?.[0] ?? skeleton(schema);
    this.build(h("textarea", { ...this.common, class: "code", rows: 4, spellcheck: "false", placeholder: example === undefined ? "JSON" : `e.g. ${JSON.stringify(example)}` }));
    const first = this.initial(value);
    this.control.value = first === null ? "" : JSON.stringify(first, null, 2);
  }

  read() {
    return this.control.value.trim() === "" ? this.missing() : exactJson(this.control.value);
  }
}

/** An object with the properties that a schema names, as a hint. */
function skeleton({ properties }) {
  return properties && Object.fromEntries(Object.entries(properties).map(([name, item]) => [name, item.enum?.[0] ?? item.examples?.[0] ?? item.type ?? null]));
}
