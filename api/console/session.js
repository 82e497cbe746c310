// Who is signed in: a token that lives as long as the tab, and no longer.

import { forgetDraft, ownDrafts } from "./draft.js";
import { Api, ApiError } from "./lanewise.js";

const KEY = "lanewise.token";

/** The client of the signed-in user; a refused token ends the session. */
class SessionApi extends Api {
  #refused;

  constructor(token, refused) {
    super({ token });
    this.#refused = refused;
  }

  async fetch(method, path, options) {
    try {
      return await super.fetch(method, path, options);
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) this.#refused(error.detail);
      throw error;
    }
  }
}

export class Session {
  /** @param {(reason: string | null) => void} ended with why, or null if the user wanted it */
  constructor(ended) {
    this.api = null;
    this.ended = ended;
  }

  /** Takes up the session that a reload has interrupted, if there is one. */
  resume() {
    const token = sessionStorage.getItem(KEY);
    if (token !== null) this.#open(token);
    return this.api !== null;
  }

  /** Signs in. @throws {ApiError} the service does not take the token */
  async start(token) {
    const me = await new Api({ token }).request("GET", "/v1/me");
    ownDrafts(me.user_id);
    sessionStorage.setItem(KEY, token);
    this.#open(token);
  }

  end(reason = null) {
    if (this.api === null) return;
    this.api = null;
    sessionStorage.removeItem(KEY);
    if (reason === null) forgetDraft();
    this.ended(reason);
  }

  #open(token) {
    const api = new SessionApi(token, (reason) => this.api === api && this.end(`Your token was refused: ${reason}`));
    this.api = api;
  }
}
