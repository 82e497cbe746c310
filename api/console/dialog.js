// Dialogs: the browser's own, so that Escape closes them and focus goes back to where it was.

import { h, newId } from "./dom.js";
import { icon } from "./icons.js";

/** Shows content in a dialog; returns it. It is gone when closed. */
export function show(title, ...content) {
  const id = newId("dialog");
  const close = h("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: () => dialog.close() }, icon("cross"));
  const dialog = h("dialog", { "aria-labelledby": id },
    h("header", {}, h("h2", { id }, h("bdi", {}, title)), close), h("div", { class: "dialog-body" }, ...content));
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside it
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Asks before something that cannot be undone. @returns {Promise<boolean>} */
export function confirm(title, text, verb) {
  return new Promise((resolve) => {
    let answer = false;
    const yes = h("button", { type: "button", class: "danger", onclick: () => { answer = true; dialog.close(); } }, verb);
    const no = h("button", { type: "button", onclick: () => dialog.close() }, "Keep");
    const dialog = show(title, h("p", {}, text), h("div", { class: "actions" }, no, yes));
    dialog.addEventListener("close", () => resolve(answer));
    no.focus();
  });
}
