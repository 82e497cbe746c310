// The way in.

import { fill, h } from "./dom.js";

/** @param {Session} session @param {string | null} reason why the user has to sign in again @param {() => void} done */
export function signIn(session, reason, done) {
  const token = h("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "token-help token-error" });
  const error = h("p", { id: "token-error", class: "error", role: "alert" }, reason ?? "");
  const button = h("button", { type: "submit", class: "primary" }, "Sign in");
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    fill(error);
    try {
      await session.start(token.value.trim().replace(/^Bearer\s+/i, ""));
      done();
    } catch (problem) {
      const wrong = problem.status === 401;
      fill(error, wrong ? `This token is not accepted: ${problem.detail}` : problem.detail ?? String(problem));
      token.setAttribute("aria-invalid", wrong);
      token.focus();
    } finally {
      button.disabled = false;
    }
  };
  const form = h("form", { onsubmit: submit, novalidate: true },
    h("label", { for: "token" }, "Access token"), token,
    h("p", { id: "token-help", class: "hint" }, "It stays in this tab and is forgotten when you close it or sign out."), error, button);
  return h("main", { class: "signin", id: "main", tabindex: "-1" },
    h("div", { class: "mark", "aria-hidden": "true" }, h("i"), h("i"), h("i")),
    h("h1", {}, "Lanewise"),
    h("p", { class: "lead" }, "Agents for many users at once, each user in a lane of their own."),
    h("section", { class: "card" }, form),
    h("details", {}, h("summary", {}, "Where do I get a token?"),
      h("p", {}, "From whoever runs this service. If that is you: ", h("code", {}, "lanewise up"), " prints some, and ",
        h("code", {}, "lanewise token ada"), " makes one.")),
    h("p", { class: "hint" }, h("a", { href: "/docs" }, "The API"), " · ", h("a", { href: "/readyz" }, "Is it ready?")));
}
