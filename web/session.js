import * as api from "./api.js";
import { Room } from "./room.js";

const mostConnected = 30; // rooms with a session of their own
const pollEvery = 20_000; // ms
const joinedUnseen = "The room was joined, but the server cannot be reached now. Try again in a moment.";
const firstRetry = 1_000; // ms

/**
 * The rooms of the user who is logged in.
 *
 * Events: "change" after anything that can be seen, "room-added" (with `room`), "room-gone" (with `room`, `error` if it
 * is known, `unsent`, the texts of messages, and `draft`) when a room was deleted or the user is no member any more,
 * "logged-out" (with `error`) when the server does not take the user token any more.
 */
export class Session extends EventTarget {
  /** By code. */
  rooms = new Map();
  /** Whether the list of rooms has been loaded. */
  loaded = false;
  /** Whether the last call for it had no answer. */
  unreachable = false;
  /** The room that is shown, or null. */
  current = null;
  userName;
  /** Whether the user is an ADMIN. */
  admin = false;
  store;

  #token;
  #timer = 0;
  #tries = 0;
  #refreshing = null; // the call that is under way, as a promise
  #refreshed = null; // the one after it
  #gone = new Set(); // codes that an answer which is under way may still tell of
  #missed = new WeakSet(); // rooms that the last list did not have, though their session was open
  #stopped = false;
  #changing = false; // the account: the token may end before the answer comes
  #refused = null; // the error that told so

  constructor({ token, userName }, store) {
    super();
    this.#token = token;
    this.userName = userName;
    this.store = store.member(userName);
  }

  /** Loads the rooms, and keeps them up to date until stop. */
  start() {
    return this.refresh();
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    for (const room of this.rooms.values()) room.disconnect();
  }

  /** The rooms by name. */
  get sorted() {
    return [...this.rooms.values()].sort((a, b) => order.compare(a.name, b.name) || order.compare(a.code, b.code));
  }

  get unread() {
    let unread = 0;
    for (const room of this.rooms.values()) unread += room.unread;
    return unread;
  }

  /** How many messages are not sent yet, those of the user's other tabs too. */
  get pending() {
    const messages = [this.store.written, ...[...this.rooms.values()].map(({ outbox }) => outbox)].flat();
    return new Set(messages.map(({ id }) => id)).size;
  }

  /** The room with a code in any case, or undefined. */
  find(code) {
    return this.rooms.get(code) ?? [...this.rooms.values()].find((room) => room.code.toLowerCase() === code.toLowerCase());
  }

  /** The room that was used last, or undefined. */
  get latest() {
    return this.store.recent.map((code) => this.rooms.get(code)).find(Boolean);
  }

  /** Shows a room, or none (null). */
  select(room) {
    if (room === this.current) return;
    this.current?.leave();
    this.current = room;
    if (room) {
      this.store.use(room.code);
      room.enter();
      this.#connect();
    }
    this.#changed();
  }

  /** Loads the list of rooms anew. It resolves also when that fails; what it means then is in the properties. */
  refresh() {
    // One after the other: an older answer must not take away what a newer one has told of.
    this.#refreshed ??= (async () => {
      await this.#refreshing;
      this.#refreshed = null;
      this.#refreshing = this.#refresh();
      await this.#refreshing;
    })();
    return this.#refreshed;
  }

  async #refresh() {
    if (this.#stopped) return;
    clearTimeout(this.#timer);
    let wait = pollEvery;
    const known = this.loaded ? [] : this.store.known;
    try {
      const [listed, account] = await Promise.all([
        api.listRooms(this.#token),
        !this.loaded && api.getAccount(this.#token), // once: a new role ends the token
      ]);
      if (this.#stopped) return;
      if (account) this.admin = account.role === "ADMIN";
      this.#list(listed);
      for (const code of known) {
        if (this.find(code)) continue;
        // It has ended while the page was not there, which is told if something was written.
        const room = { code, name: code, outbox: [] };
        const written = this.#forget(room);
        if (written.unsent.length || written.draft) this.#tellEnd({ room, ...written });
      }
      this.unreachable = false;
      this.#tries = 0;
    } catch (error) {
      if (this.#stopped) return;
      if (error.tokenRefused || error.code === "ACCOUNT_DISABLED") {
        this.#logOut(error);
        return;
      }
      // A browser does not tell of a network that has gone silent: what is not answered here is not there either.
      if (!this.unreachable && error.code === "UNREACHABLE") {
        for (const room of this.rooms.values()) room.resume();
      }
      this.unreachable = true;
      wait = Math.min(firstRetry * 2 ** this.#tries++, pollEvery) * (0.6 + 0.4 * Math.random());
    }
    if (this.#stopped) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh(), wait);
    this.#changed();
  }

  #list(listed) {
    const codes = new Set();
    for (const info of listed) {
      const code = info.short_code;
      if (this.#gone.has(code)) continue;
      codes.add(code);
      const room = this.rooms.get(code);
      if (room) {
        room.update(info);
        room.checkAlive();
      } else {
        this.#add(info);
      }
    }
    for (const room of this.rooms.values()) {
      if (codes.has(room.code) || this.#gone.has(room.code)) this.#missed.delete(room); // one that is being left is its call's business
      else if (room.connection !== "open" || this.#missed.has(room)) this.#remove(room);
      else this.#missed.add(room); // its session is about to tell why; if it does not, the next list takes it away
    }
    this.loaded = true;
    this.#connect();
  }

  #add(info) {
    const room = new Room(info, { userName: this.userName, token: this.#token }, this.store);
    room.addEventListener("change", () => this.#changed());
    room.addEventListener("opened", () => this.current?.hurry()); // the server is back: not for one room alone
    room.addEventListener("ended", ({ error }) => {
      if (error.tokenRefused || error.code === "ACCOUNT_DISABLED") this.#logOut(error);
      else if (error.code === "HISTORY_RESTORED") this.#startAnew();
      else this.#remove(room, error);
    });
    this.rooms.set(room.code, room);
    this.dispatchEvent(Object.assign(new Event("room-added"), { room }));
  }

  // The server was restored from a backup, and has other messages where we know some: all is to be loaded again. What
  // was read of them is not known; what was written and not acknowledged is kept, and sent.
  #startAnew() {
    for (const { code } of this.rooms.values()) this.store.setReadSeq(code, null);
    location.reload();
  }

  // Every room has a session as long as there are few; of many, those that were used last.
  #connect() {
    const { recent } = this.store;
    const rank = (room) => (room === this.current ? -1 : recent.indexOf(room.code) + 1 || Infinity);
    const rooms = [...this.rooms.values()].sort((a, b) => rank(a) - rank(b) || 0);
    rooms.forEach((room, i) => (i < mostConnected ? room.connect() : room.disconnect()));
  }

  #remove(room, error) {
    if (!this.rooms.delete(room.code)) return;
    room.disconnect();
    const own = this.#gone.has(room.code);
    const written = this.#forget(room, own || error?.code === "ROOM_DELETED");
    if (!own) this.#tellEnd({ room, error, ...written });
    this.#changed();
  }

  // Forgets a room, and returns what was written there and not sent. The draft is kept for who may come back.
  #forget({ code, outbox }, withDraft) {
    const messages = new Map([...this.store.outbox(code), ...outbox].map(({ id, body }) => [id, body]));
    const draft = this.store.draft(code).trim();
    this.store.forget(code, withDraft);
    return { unsent: [...messages.values()], draft };
  }

  #tellEnd(end) {
    this.dispatchEvent(Object.assign(new Event("room-gone"), end));
  }

  #logOut(error) {
    if (this.#stopped) return;
    if (this.#changing) {
      this.#refused = error;
      return;
    }
    this.stop();
    this.dispatchEvent(Object.assign(new Event("logged-out"), { error }));
  }

  /** Changes the password, and returns a new user token: the one of this session is void. */
  changePassword(password, newPassword) {
    return this.#changeAccount(() => api.changePassword(this.#token, password, newPassword));
  }

  deleteAccount(password) {
    return this.#changeAccount(() => api.deleteAccount(this.#token, password));
  }

  async #changeAccount(call) {
    this.#changing = true;
    try {
      const answer = await call();
      this.stop();
      return answer;
    } catch (error) {
      if (error.tokenRefused) this.#refused = error;
      throw error;
    } finally {
      this.#changing = false;
      if (this.#refused) this.#logOut(this.#refused);
    }
  }

  /** Creates a room and returns its code; it is in the list then. */
  async create(name, password) {
    const code = await this.asUser((token) => api.createRoom(token, name, password));
    await this.refresh();
    return code;
  }

  /** Joins a room and returns it. Rejects with an ApiError, ROOM_ACCESS_DENIED for no such room or a wrong password. */
  async join(code, password) {
    await this.asUser((token) => api.joinRoom(token, code, password));
    this.#gone.delete(code);
    await this.refresh();
    const room = this.find(code);
    if (!room) throw new api.ApiError(0, "UNREACHABLE", joinedUnseen);
    return room;
  }

  /** Changes a room's `room_name`, `room_password` or `owner`. */
  async change(room, change) {
    room.update(await this.asUser((token) => api.changeRoom(token, room.code, change)));
    await this.refresh(); // a list of before may be on its way, and would take it back
  }

  /** Deletes a room for everybody. */
  delete(room) {
    return this.#part(room, (token) => api.deleteRoom(token, room.code));
  }

  /** Leaves a room. */
  async leave(room) {
    await this.#part(room, (token) => api.removeMember(token, room.code, this.userName));
    await this.refresh();
    this.#gone.delete(room.code); // it may be joined again, on another device too
  }

  async #part(room, call) {
    this.#gone.add(room.code);
    try {
      await this.asUser(call);
    } catch (error) {
      this.#gone.delete(room.code);
      if (this.rooms.get(room.code) === room) throw error;
      return; // its session has told that it is gone: only the answer was lost
    }
    this.#remove(room);
  }

  /** Makes a call with the user token. */
  async asUser(call) {
    try {
      return await call(this.#token);
    } catch (error) {
      if (error.tokenRefused) this.#logOut(error);
      throw error;
    }
  }

  /** Takes over what other tabs of the user have done. */
  takeOver() {
    for (const room of this.rooms.values()) room.takeOver();
  }

  /** Tries at once to come back: the browser gave a sign that it may work. */
  hurry() {
    for (const room of this.rooms.values()) room.hurry();
    this.refresh();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

const order = new Intl.Collator(undefined, { sensitivity: "base", numeric: true });
