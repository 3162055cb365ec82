/**
 * What this browser keeps, in localStorage or sessionStorage, or for as long as the page lives where that is not allowed.
 *
 * The user token is kept here, so that an invitation link or a new tab is logged in at once. It is valid for the
 * server's TOKEN_DURATION; logging out removes it. Only our own script could read it: the page's
 * Content-Security-Policy lets no other run, and whatever people write is put on the page as text. A cookie
 * would be sent along by the browser itself, and so every route would need a defence against forged requests.
 * Room tokens stay in memory: a member gets new ones by the user token.
 */
export class Store {
  #area;
  /** What only this tab keeps, for as long as it is open: another Store. */
  tab;

  constructor(area, tab) {
    this.#area = area;
    this.tab = tab;
  }

  /** Who is logged in: `{ token, userName }`, or null. */
  get account() {
    return this.get("account", null);
  }

  set account(account) {
    this.set("account", account);
  }

  /** Calls back when another tab has logged in or out. */
  onAccountChange(callback) {
    addEventListener("storage", (event) => {
      if (event.key === null || event.key === prefix + "account") callback(this.account);
    });
  }

  member(userName) {
    return new MemberStore(this, userName.toLowerCase());
  }

  get(key, otherwise) {
    try {
      return JSON.parse(this.#area.getItem(prefix + key)) ?? otherwise;
    } catch {
      return otherwise;
    }
  }

  /** Keeps a value, and tells whether that has worked; null and undefined remove it. */
  set(key, value) {
    try {
      if (value == null) this.#area.removeItem(prefix + key);
      else this.#area.setItem(prefix + key, JSON.stringify(value));
      return true;
    } catch {
      return false; // the area is full: a draft is not kept then, and everything else goes on
    }
  }

  /** What follows in the keys that begin so. */
  codes(beginning) {
    return Object.keys(this.#area).filter((key) => key.startsWith(prefix + beginning)).map((key) => key.slice((prefix + beginning).length));
  }

  /** Removes every key that begins so. */
  removeAll(beginning) {
    for (const code of this.codes(beginning)) this.set(beginning + code, null);
  }
}

const prefix = "grpcchatter.";

/** What is kept of one member: read positions, drafts, and messages that were not yet acknowledged. */
class MemberStore {
  #store;
  #user;

  constructor(store, user) {
    this.#store = store;
    this.#user = user;
  }

  #key(kind, code = "") {
    return `${kind}/${this.#user}/${code}`; // no name has a slash
  }

  /** The last seq read in a room, or null when this browser has never shown the room. */
  readSeq(code) {
    return this.#store.get(this.#key("read", code), null);
  }

  setReadSeq(code, seq) {
    this.#store.set(this.#key("read", code), seq);
  }

  /** What is being written in this tab, or else what was written last in any. */
  draft(code) {
    const key = this.#key("draft", code);
    return this.#store.tab.get(key, null) ?? this.#store.get(key, "");
  }

  setDraft(code, text) {
    const key = this.#key("draft", code);
    // What is sent here takes nothing away that is being written elsewhere.
    if (text || this.#store.get(key, "") === this.draft(code)) this.#store.set(key, text || null);
    this.#store.tab.set(key, text);
  }

  /** The messages to send in a room, oldest first: they outlive a reload and a log-in that has run out. */
  outbox(code) {
    return this.#store.get(this.#key("outbox", code), []);
  }

  /** The messages to send in all rooms. */
  get written() {
    return this.#store.codes(this.#key("outbox")).flatMap((code) => this.outbox(code));
  }

  /** Adds a message to the outbox, or replaces the one with its id. Reads anew: other tabs write here too. Tells whether it is kept. */
  keep(code, message) {
    const others = this.outbox(code).filter(({ id }) => id !== message.id);
    return this.#store.set(this.#key("outbox", code), [...others, message]);
  }

  drop(code, id) {
    const others = this.outbox(code).filter((message) => message.id !== id);
    this.#store.set(this.#key("outbox", code), others.length ? others : null);
  }

  /** The codes of the rooms that were used last, latest first. */
  get recent() {
    return this.#store.get(this.#key("recent"), []);
  }

  use(code) {
    this.#store.set(this.#key("recent"), [code, ...this.recent.filter((other) => other !== code)].slice(0, 100));
  }

  /** The codes of the rooms that this browser has shown, and has not been told the end of. */
  get known() {
    return this.#store.codes(this.#key("read"));
  }

  /** The codes of rooms that have ended for the member, latest first; who has joined one again is in the list of rooms. */
  get ended() {
    return this.#store.get(this.#key("ended"), []);
  }

  /** Forgets a room that is gone, but for that it was there; `withDraft`, for nobody comes back to it. */
  forget(code, withDraft) {
    for (const kind of ["read", "outbox"]) this.#store.set(this.#key(kind, code), null);
    if (withDraft) for (const store of [this.#store, this.#store.tab]) store.set(this.#key("draft", code), null);
    this.#store.set(this.#key("recent"), this.recent.filter((other) => other !== code));
    this.#store.set(this.#key("ended"), [code, ...this.ended.filter((other) => other !== code)].slice(0, 100));
  }

  /** Removes all that is kept of the member. */
  removeAll() {
    for (const kind of ["read", "recent", "ended"]) this.#store.removeAll(this.#key(kind));
    this.removeWriting();
  }

  /** Removes what the member wrote, so that nobody finds it here after a log-out. */
  removeWriting() {
    this.#store.tab.removeAll("");
    this.#store.removeAll(this.#key("draft"));
    this.#store.removeAll(this.#key("outbox"));
  }
}

/** localStorage or sessionStorage, or a stand-in where the browser forbids it. */
export function storageArea(name) {
  try {
    window[name].getItem(prefix);
    return window[name];
  } catch {
    return new PageStorage();
  }
}

class PageStorage {
  getItem(key) {
    return this[key] ?? null;
  }

  setItem(key, value) {
    this[key] = value;
  }

  removeItem(key) {
    delete this[key];
  }
}
