// The place in the console is in the address after `#`, so that a reload, a bookmark and "back" keep it.

/** Returns the parts of the path and the query: `#/runs/ID?x=1` is `{ parts: ["runs", "ID"], query }`. */
export function currentRoute() {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?", 2);
  return { parts: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(query) };
}

/** Returns the address of a place; what is null or empty in the query is left out. */
export function link(parts, query = {}) {
  const wanted = Object.entries(query).filter(([, value]) => value);
  const tail = wanted.length ? `?${new URLSearchParams(wanted)}` : "";
  return `#/${parts.map(encodeURIComponent).join("/")}${tail}`;
}

export function go(parts, query) {
  location.hash = link(parts, query);
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
