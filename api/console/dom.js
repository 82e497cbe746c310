// Makes elements. Text is always text: nothing in the console takes markup.

/**
 * Returns a new element.
 *
 * @param {string} name of the tag
 * @param {object} attributes `onclick` and the like listen; true is an empty attribute; false, null, undefined are none
 * @param {...any} children elements and text; null, undefined and false are left out, lists are taken apart
 */
export function h(name, attributes = {}, ...children) {
  const found = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) found.addEventListener(key.slice(2), value);
    else found.setAttribute(key, value === true ? "" : value);
  }
  append(found, ...children);
  return found;
}

/** Appends what `h` takes as children. */
export function append(parent, ...children) {
  const wanted = children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
  for (const child of wanted) parent.append(child instanceof Node ? child : String(child));
}

/** Puts children in place of all that are there. */
export function fill(parent, ...children) {
  parent.replaceChildren();
  append(parent, ...children);
}

/** As `fill`, but leaves alone what reads the same already: screen readers are not told again, focus stays. */
export function refill(parent, ...children) {
  const wanted = h(parent.tagName, {}, ...children);
  if (parent.textContent !== wanted.textContent) parent.replaceChildren(...wanted.childNodes);
}

/** Text of somebody else, which must not turn round what stands beside it. */
export function foreign(text, attributes = {}) {
  return h("bdi", attributes, text);
}

/**
 * Makes a parent's children those of the items, in their order; what is there stays, with focus and scroll position.
 *
 * @param {Map<string, {element: Element, update(item: any): void}>} rows kept by the caller from call to call
 * @param {(item: any) => {element: Element, update(item: any): void}} make
 */
export function reconcile(parent, rows, items, keyOf, make) {
  const wanted = new Set(items.map(keyOf));
  for (const [key, row] of rows) {
    if (!wanted.has(key)) {
      row.element.remove();
      rows.delete(key);
    }
  }
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const row = rows.get(key) ?? make(item);
    rows.set(key, row);
    row.update(item);
    if (row.element === next) next = next.nextElementSibling;
    else parent.insertBefore(row.element, next);
  }
}

let ids = 0;

/** Returns an id that no other element has. */
export function newId(prefix) {
  ids += 1;
  return `${prefix}-${ids}`;
}
