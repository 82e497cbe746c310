// A form for a JSON Schema: a field for each property; what no simple field can hold is written as JSON.

import { fill, foreign, h, newId } from "./dom.js";
import { exact, exactJson } from "./numbers.js";

const LINE_CHARS = 200; // a text that may be longer gets several lines
const DOCUMENT = "document"; // a field of this name takes the name of one of the user's
const MAX_REFS = 10;

export class Form {
  element = h("div", { class: "fields" });
  #fields = [];

  /**
   * @param {object} schema of an object, or of anything else: then it is one field of JSON
   * @param {object[]} documents the user's, to be chosen from
   * @param {any} value to begin with
   */
  constructor(schema, documents, value) {
    const root = resolve(schema, schema);
    if (root.type === "object" && root.properties) {
      const required = new Set(root.required);
      const rank = ([name]) => (required.has(name) ? 0 : name === DOCUMENT ? 1 : 2); // the service does not keep an author's order
      const properties = Object.entries(root.properties).toSorted((one, other) => rank(one) - rank(other));
      this.#fields = properties.map(([name, property]) => makeField(name, resolve(property, schema), required.has(name), documents, value?.[name]));
    } else {
      this.#fields = [new JsonField("", root, true, value)];
    }
    this.element.append(...this.#fields.map((field) => field.element));
    if (this.#fields.length === 0) this.element.append(h("p", { class: "hint" }, "This agent takes no input."));
  }

  /** Returns the value; undefined if a field holds none that can be sent, which it then says. */
  read() {
    this.showErrors([]);
    let sound = true;
    const value = {};
    for (const field of this.#fields) {
      try {
        const found = field.read();
        if (field.name === "") return found;
        if (found !== undefined) value[field.name] = found;
      } catch (error) {
        field.say(error.message);
        if (sound) field.control.focus();
        sound = false;
      }
    }
    return sound ? value : undefined;
  }

  /** Shows errors at their fields; returns those that belong to none. @param {{field: string, message: string}[]} errors */
  showErrors(errors) {
    for (const field of this.#fields) field.say("");
    const rest = [];
    let focused = false;
    for (const { field: path, message } of errors) {
      const field = this.#fields.find(({ name }) => (name === "" ? path.startsWith("input") : path === `input.${name}` || path.startsWith(`input.${name}.`) || path.startsWith(`input.${name}[`)));
      if (!field) rest.push(`${path}: ${message}`);
      else {
        field.say(path === `input.${field.name}` ? message : `${path.slice("input.".length)}: ${message}`);
        if (!focused) field.control.focus();
        focused = true;
      }
    }
    return rest;
  }
}

function makeField(name, schema, required, documents, value) {
  const { type, enum: choices } = schema;
  if (choices) return new ChoiceField(name, schema, required, value);
  if (type === "boolean") return new BooleanField(name, schema, required, value);
  if (type === "integer" || type === "number") return new NumberField(name, schema, required, value);
  if (type === "string") return new TextField(name, schema, required, value, name === DOCUMENT ? documents : null);
  if (type === "array" && schema.items?.type === "string" && !schema.items.enum) {
    const fits = /document/i.test(`${name} ${schema.description ?? ""}`) && documents.length > 0;
    return fits ? new DocumentsField(name, schema, required, documents, value) : new LinesField(name, schema, required, value);
  }
  return new JsonField(name, schema, required, value);
}

/** Follows references within the schema, and takes `X | null` for an X that may be left out. */
function resolve(property, root) {
  let found = property;
  for (let step = 0; step < MAX_REFS; step += 1) {
    const kinds = (found.anyOf ?? []).filter((kind) => kind.type !== "null");
    if (typeof found.$ref === "string") {
      const { $ref, ...own } = found;
      const target = $ref.startsWith("#/") ? $ref.slice(2).split("/").reduce((place, part) => place?.[part.replaceAll("~1", "/").replaceAll("~0", "~")], root) : undefined;
      if (typeof target !== "object") return {};
      found = { ...target, ...own };
    } else if (found.anyOf && kinds.length === 1) {
      const { anyOf, ...own } = found;
      found = { ...kinds[0], ...own };
    } else if ("const" in found) {
      return { ...found, enum: [found.const] };
    } else break;
  }
  return found;
}

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

  /** What to begin with. */
  initial(value) {
    return value ?? this.schema.default ?? null;
  }

  missing() {
    if (this.required) throw new Error("This is needed.");
    return undefined;
  }
}

class TextField extends Field {
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

class NumberField extends Field {
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

class ChoiceField extends Field {
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

class BooleanField extends Field {
  constructor(name, schema, required, value) {
    super(name, schema, required);
    this.build(h("input", { type: "checkbox", ...this.common }));
    this.element.classList.add("check");
    this.control.checked = this.initial(value) === true;
  }

  read() {
    const untouched = !this.required && this.schema.default === undefined && !this.control.checked;
    return untouched ? undefined : this.control.checked;
  }
}

/** A list of texts, one a line. */
class LinesField extends Field {
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
class DocumentsField extends Field {
  constructor(name, schema, required, documents, value) {
    super(name, schema, required);
    const chosen = new Set(this.initial(value) ?? []);
    const box = (item) => h("label", {}, h("input", { type: "checkbox", value: item.name, checked: chosen.has(item.name) }), foreign(item.name));
    this.control = h("fieldset", { id: this.id, tabindex: "-1", "aria-describedby": `${this.id}-help ${this.id}-error` },
      h("legend", {}, foreign(name), !required && h("span", { class: "hint" }, " optional")), h("div", { class: "choices" }, documents.map(box)));
    this.element = h("div", { class: "field" }, this.control, this.help(), this.error);
  }

  read() {
    const chosen = [...this.control.querySelectorAll("input:checked")].map((box) => box.value);
    return chosen.length > 0 ? chosen : this.required ? [] : undefined;
  }
}

/** Anything else. */
class JsonField extends Field {
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
