// What somebody has begun to write, for when the page goes before it is sent: a token may expire meanwhile.

const KEY = "lanewise.draft";
const USER = "lanewise.draft.user";
const MAX_CHARS = 256 * 1024;

/** Keeps what is written at this place, in place of what was kept; what is too large is not kept. */
export function keepDraft(content) {
  const text = JSON.stringify({ place: location.hash, content });
  if (text.length > MAX_CHARS) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, text);
}

/** Returns what was kept at this place, or null. */
export function keptDraft() {
  const { place, content } = JSON.parse(sessionStorage.getItem(KEY)) ?? {};
  return place === location.hash ? content : null;
}

export function forgetDraft() {
  sessionStorage.removeItem(KEY);
}

/** From now on drafts are this user's; nobody is shown another's. */
export function ownDrafts(user) {
  if (sessionStorage.getItem(USER) !== user) forgetDraft();
  sessionStorage.setItem(USER, user);
}
