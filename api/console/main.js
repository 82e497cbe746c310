// The frame round all pages, and which one is shown.

import { Connection } from "./connection.js";
import { documentsPage } from "./documents.js";
import { append, fill, h } from "./dom.js";
import { historyPage } from "./history.js";
import { icon } from "./icons.js";
import { Lane } from "./lane.js";
import { forgetNotices, notices } from "./notice.js";
import { overviewPage } from "./overview.js";
import { currentRoute, link } from "./route.js";
import { runPage } from "./run.js";
import { Session } from "./session.js";
import { signIn } from "./signin.js";
import { submitPage } from "./submit.js";
import { threadsPage } from "./threads.js";

const PAGES = { "": overviewPage, new: submitPage, runs: historyPage, threads: threadsPage, documents: documentsPage };
const PLACES = [["", "Lane", "lane"], ["runs", "History", "history"], ["threads", "Threads", "thread"], ["documents", "Documents", "file"]];

let app = null; // of the signed-in user: what pages work with
let page = null;

const session = new Session((reason) => {
  leave();
  showSignIn(reason);
});

function showSignIn(reason = null) {
  document.title = "Sign in · Lanewise";
  fill(document.body, signIn(session, reason, enter));
  document.getElementById("token").focus();
}

function enter() {
  const lane = new Lane(session.api);
  const connection = new Connection(session.api, lane, (reason) => session.end(reason));
  const main = h("main", { id: "main", tabindex: "-1" });
  app = { api: session.api, lane, connection, main, again: () => showPage() };
  fill(document.body, skipLink(main), header(app), connection.banner, main, notices());
  connection.open();
  showPage();
}

function leave() {
  page?.close?.();
  page = null;
  app?.connection.close();
  app?.lane.close();
  app = null;
  forgetNotices();
}

function skipLink(main) {
  const skip = (event) => {
    event.preventDefault(); // the address names the place in the console
    main.focus();
  };
  return h("a", { class: "skip", href: "#main", onclick: skip }, "Skip to content");
}

function header({ lane, connection }) {
  const user = h("bdi", { class: "user" });
  lane.addEventListener("change", () => { user.textContent = lane.me?.user_id ?? ""; });
  const places = PLACES.map(([name, label, drawing]) => h("a", { href: link(name ? [name] : []), "data-place": name }, icon(drawing), label));
  const leaveButton = h("button", { type: "button", class: "quiet", "aria-label": "Sign out", title: "Sign out", onclick: () => session.end() }, icon("leave"));
  return h("header", { class: "top" },
    h("a", { class: "brand", href: "#/", "aria-label": "Lanewise, your lane" }, h("span", { class: "mark", "aria-hidden": "true" }, h("i"), h("i"), h("i")), "Lanewise"),
    h("nav", { "aria-label": "Places" }, places),
    connection.pill,
    h("a", { class: "button primary", href: "#/new" }, icon("plus"), "New run"),
    h("div", { class: "me" }, user, leaveButton));
}

/** Shows the page that the address names; `moved`: the user went there, so focus goes along. */
function showPage(moved = false) {
  if (app === null) return;
  page?.close?.();
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  const { parts, query } = currentRoute();
  const make = parts[0] === "runs" && parts[1] ? runPage : PAGES[parts[0] ?? ""] ?? lost;
  page = make(app, parts.slice(1), query);
  fill(app.main, page.element);
  document.title = `${page.title} · Lanewise`;
  for (const place of document.querySelectorAll("[data-place]")) {
    if (place.dataset.place === (parts[0] ?? "")) place.setAttribute("aria-current", "page");
    else place.removeAttribute("aria-current");
  }
  if (moved) {
    scrollTo(0, 0);
    app.main.focus({ preventScroll: true });
  }
}

function lost() {
  const element = h("section", { class: "empty" });
  append(element, h("h1", {}, "There is nothing here"), h("p", {}, h("a", { href: "#/" }, "Go to your lane")));
  return { title: "Not found", element };
}

addEventListener("hashchange", () => showPage(true));
if (session.resume()) enter();
else showSignIn();
