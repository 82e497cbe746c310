// Renders /openapi.json. Everything is set as text, so nothing in the document can become markup.
"use strict";

function element(name, text, ...children) {
  const found = document.createElement(name);
  if (text) found.textContent = text;
  found.append(...children);
  return found;
}

function schemaName(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(schemaName).join(" | ");
  if (schema.enum) return schema.enum.map((item) => JSON.stringify(item)).join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.type === "array") return `${schemaName(schema.items)}[]`;
  return schema.format || schema.type || "any";
}

function table(rows) {
  const cells = (row) => row.map((cell) => element("td", cell));
  return element("table", "", ...rows.map((row) => element("tr", "", ...cells(row))));
}

function contentName(content) {
  return Object.entries(content || {}).map(([type, body]) => `${type} ${schemaName(body.schema)}`).join(", ");
}

function operation(path, method, spec) {
  const line = element("summary", "", element("b", method.toUpperCase()), element("code", path), element("span", spec.summary));
  const found = element("details", "", line, element("p", spec.description));
  found.append(element("p", spec.security ? "Takes a bearer token." : "Open to everybody."));
  const parameters = (spec.parameters || []).map((item) => [
    item.name, item.in + (item.required ? ", required" : ""), schemaName(item.schema),
    item.description || item.schema.description || "",
  ]);
  if (parameters.length) found.append(table(parameters));
  if (spec.requestBody) found.append(element("p", `Body: ${contentName(spec.requestBody.content)}`));
  found.append(table(Object.entries(spec.responses).map(([status, item]) => [status, item.description, contentName(item.content)])));
  return found;
}

function schema(name, spec) {
  const rows = Object.entries(spec.properties || {}).map(([field, item]) => [
    field, schemaName(item) + ((spec.required || []).includes(field) ? "" : ", optional"), item.description || "",
  ]);
  return element("details", "", element("summary", "", element("code", name), element("span", spec.description || "")), table(rows));
}

fetch("/openapi.json").then((answer) => answer.json()).then((api) => {
  const main = document.getElementById("api");
  main.append(element("p", `${api.info.description} Version ${api.info.version}.`));
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, spec] of Object.entries(methods)) {
      const tag = spec.tags[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(operation(path, method, spec));
    }
  }
  for (const [tag, found] of groups) main.append(element("h2", tag), ...found);
  main.append(element("h2", "schemas"), ...Object.entries(api.components.schemas).map(([name, spec]) => schema(name, spec)));
});
