// A form for a JSON Schema: a field for each property; what no simple field can hold is written as JSON.

import { h } from "./dom.js";
import { BooleanField, ChoiceField, DocumentsField, JsonField, LinesField, NumberField, TextField } from "./fields.js";

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

  /** What is in the controls, sound or not, by field. */
  get raw() {
    return Object.fromEntries(this.#fields.map((field) => [field.name, field.raw]));
  }

  /** Puts back what `raw` was. */
  restore(raw) {
    for (const field of this.#fields) {
      if (!(field.name in raw)) continue; // the agent's schema has changed meanwhile
      field.raw = raw[field.name];
      field.control.dispatchEvent(new Event("input"));
    }
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
