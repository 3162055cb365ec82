import * as api from "./api.js";
import { Connection } from "./connection.js";
import { Message } from "./message.js";
import { Stretch } from "./stretch.js";

const page = 200; // messages asked for at once: the server's most
const firstPage = 60; // messages that a room opens with, beside the unread ones
const mostInMemory = 1_000; // messages of a room
const mostUnread = page - firstPage; // with more, a room opens at the first unread message and not at its end
const retryAfter = 2_500; // ms until a failed load of history is tried again
const acknowledged = 12_000; // ms for an acknowledgement, before the session is taken for dead
const typingLasts = 5_000; // ms
const typingEvery = 2_500; // ms between two notes that the user types
const sameName = (a, b) => a.toLowerCase() === b.toLowerCase();

/**
 * One room of the user: what is known of it, its session, and the messages to send.
 *
 * Events: "change" after anything that can be seen, "opened" when its session is, "arrived" (with `messages`, those of others that came live),
 * "ended" (with `error`, an ApiError or `{ code: "ROOM_DELETED" }` or `"HISTORY_RESTORED"`) when there is nothing to come back to.
 */
export class Room extends EventTarget {
  code;
  name;
  owner;
  /** The newest seq that is known of. */
  lastSeq = 0;
  /** The last seq that the user has seen. */
  readSeq;
  /** The line "new messages" stands after this seq; null: there is none. */
  lineAfter = null;
  /** The history in memory. Before `loaded` there is none. */
  stretch = new Stretch();
  loaded = false;
  /** What was written and is not stored yet, oldest first. */
  outbox = [];
  /** The names of those present, sorted, or null before they are known. */
  present = null;
  /** Where the timeline stands: `{ atEnd, seq, message, delta }`, or null for where reading stopped. */
  view = null;

  #user;
  #store;
  #token = null;
  #cursor;
  #connection;
  #watched = false; // shown to the user: presence and typing matter
  #loading = 0; // the number of the load that is under way, 0 for none
  #loads = 0;
  #retry = 0;
  #typing = new Map(); // user name → timer
  #typed = 0;
  #overdue = 0;

  /** `user` has `userName` and `token`, `store` is the member's; `listed` is the room as GET /rooms tells it. */
  constructor(listed, user, store) {
    super();
    this.code = listed.short_code;
    this.#user = user;
    this.#store = store;
    this.update(listed);
    this.#cursor = this.lastSeq;
    this.readSeq = store.readSeq(this.code);
    if (this.readSeq === null) this.#setRead(this.lastSeq);
    this.outbox = store.outbox(this.code).map((written) => new Message({ seq: null, state: "pending", ...written }));
    this.#connection = new Connection({
      token: (refused) => this.#roomToken(refused),
      cursor: () => this.#cursor,
      received: (events) => this.#received(events),
      changed: () => this.#connectionChanged(),
      ended: (error) => this.#end(error),
    });
  }

  get unread() {
    return Math.max(0, this.lastSeq - this.readSeq);
  }

  get owned() {
    return sameName(this.owner, this.#user.userName);
  }

  /** The messages that the timeline shows. */
  get shown() {
    // The message before the first one is only there to tell how that one looks: whose it follows, and on which day.
    const stored = this.stretch.first > 1 ? this.stretch.list.slice(1) : this.stretch.list;
    return this.complete || !this.loaded || this.view?.atEnd ? stored.concat(this.outbox) : stored;
  }

  /** Whether the history in memory reaches the newest message. */
  get complete() {
    return this.loaded && this.stretch.last >= this.lastSeq;
  }

  get connection() {
    return this.#connection.state;
  }

  /** The server's code for the last end of the session. */
  get connectionReason() {
    return this.#connection.reason;
  }

  /** Who types, sorted. */
  get typing() {
    return [...this.#typing.keys()].sort();
  }

  isOwn(message) {
    return sameName(message.userName, this.#user.userName);
  }

  /** Takes over what GET /rooms tells. */
  update(listed) {
    this.name = listed.room_name;
    this.owner = listed.owner;
    this.lastSeq = Math.max(this.lastSeq, listed.last_seq ?? 0);
    this.#changed();
  }

  /** Uses a room token that is already there. */
  useToken(token) {
    this.#token = token;
  }

  connect() {
    // What came while there was no session is fetched as history, when it is looked at.
    if (this.connection === "stopped" && !this.loaded) this.#cursor = this.lastSeq;
    this.#connection.start();
  }

  disconnect() {
    this.#connection.stop();
  }

  /** Tries at once to come back, as there is a sign that it may work. */
  hurry() {
    this.#connection.hurry();
  }

  /** Resumes the session if it has not brought what GET /rooms told of a while ago. */
  checkAlive(seqThen) {
    if (this.#cursor < seqThen) this.#connection.resume();
  }

  /** The user looks at the room from now on. */
  enter() {
    this.#watched = true;
    this.lineAfter = this.unread ? this.readSeq : null;
    if (this.unread) {
      this.view = null;
      const { first, last } = this.stretch;
      if (this.readSeq + 1 < first || this.readSeq + 1 > last) this.loaded = false;
    }
    this.#loadPresent();
    this.#changed();
  }

  /** The user looks elsewhere. */
  leave() {
    this.#watched = false;
    for (const timer of this.#typing.values()) clearTimeout(timer);
    this.#typing.clear();
  }

  /** Takes note that the user has seen everything up to a seq. */
  read(seq) {
    if (seq <= this.readSeq) return;
    this.#setRead(seq);
    this.#changed();
  }

  /** Takes over a read position of another tab. */
  readElsewhere() {
    this.read(this.#store.readSeq(this.code) ?? 0);
  }

  #setRead(seq) {
    this.readSeq = seq;
    this.#store.setReadSeq(this.code, seq);
  }

  /** Sends a message: it stands in the outbox until its event comes back. */
  send(body) {
    const message = Message.written(this.#user.userName, body);
    this.outbox.push(message);
    this.#keep(message);
    this.lineAfter = null;
    this.#typed = 0;
    this.#post(message);
    if (this.complete) this.view = { atEnd: true };
    else this.loadEnd();
    this.#changed();
  }

  /** Takes a rejected message out of the outbox. */
  discard(message) {
    this.#settle(message);
    this.#changed();
  }

  /** Tells the others that the user types. */
  sendTyping() {
    if (Date.now() - this.#typed < typingEvery) return;
    this.#typed = Date.now();
    this.#connection.send({ typing: true });
  }

  #keep({ id, userName, body, at, state, reason }) {
    this.#store.keep(this.code, { id, userName, body, at, state, reason });
  }

  #settle(message) {
    this.outbox = this.outbox.filter((other) => other !== message);
    this.#store.drop(this.code, message.id);
  }

  #post(message) {
    this.#connection.send({ body: message.body, clientMessageId: message.id });
    clearTimeout(this.#overdue);
    this.#overdue = setTimeout(() => {
      if (this.outbox.some(({ state }) => state === "pending")) this.#connection.resume();
    }, acknowledged);
  }

  #reject(message, reason) {
    message.state = "rejected";
    message.reason = reason;
    this.#keep(message);
  }

  async #roomToken(refused) {
    if (refused) this.#token = null;
    this.#token ??= await api.joinRoom(this.#user.token, this.code, "");
    return this.#token;
  }

  // A call with the room token, and once more with a new one when it was refused.
  async #call(request) {
    try {
      return await request(await this.#roomToken(false), this.code);
    } catch (error) {
      if (!error.tokenRefused) throw error;
      return request(await this.#roomToken(true), this.code);
    }
  }

  #connectionChanged() {
    if (this.connection === "open") {
      this.dispatchEvent(new Event("opened"));
      for (const message of this.outbox) {
        if (message.state === "pending") this.#post(message);
      }
      this.#retry = 0;
      this.#loadPresent();
    } else if (this.connectionReason === "TOO_LARGE") {
      const pending = this.outbox.filter(({ state }) => state === "pending");
      const longest = pending.reduce((a, b) => (a && a.body.length >= b.body.length ? a : b), null);
      if (longest) this.#reject(longest, "The message is too long.");
    }
    this.#changed();
  }

  #end(error) {
    this.disconnect();
    this.dispatchEvent(Object.assign(new Event("ended"), { error }));
  }

  #received(events) {
    const arrived = [];
    for (const event of events) {
      switch (event.kind) {
        case "MESSAGE":
          if (!this.#receivedMessage(event, arrived)) return false;
          break;
        case "REJECTED": {
          const message = this.outbox.find(({ id }) => id === event.clientMessageId);
          if (message) this.#reject(message, event.body);
          break;
        }
        case "TYPING":
          this.#receivedTyping(event.userName);
          break;
        case "USER_JOINED":
          if (this.present && !this.present.includes(event.userName)) {
            this.present = [...this.present, event.userName].sort(byName);
          }
          break;
        case "USER_LEFT":
          this.#stopTyping(event.userName);
          this.present &&= this.present.filter((name) => name !== event.userName);
          break;
      }
    }
    if (arrived.length) this.dispatchEvent(Object.assign(new Event("arrived"), { messages: arrived }));
    this.#changed();
    return true;
  }

  #receivedMessage(event, arrived) {
    const seq = Number(event.seq);
    const own = this.isOwn(event);
    const written = own && this.outbox.find(({ id }) => id === event.clientMessageId);
    if (written) this.#settle(written);
    if (seq <= this.#cursor) return true; // a resend, answered with the seq that the message already had
    if (seq > this.#cursor + 1) return false;

    const message = written || Message.fromEvent(event);
    if (written) written.stored(event);
    this.#cursor = seq;
    this.#stopTyping(event.userName);
    // Who writes has read what was there before, on whatever device.
    if (own) this.#setRead(Math.max(seq, this.readSeq));
    else arrived.push(message);
    this.lastSeq = Math.max(this.lastSeq, seq);
    const follows = this.view === null || this.view.atEnd;
    if (this.loaded && seq === this.stretch.last + 1 && (follows || this.stretch.list.length < mostInMemory)) {
      this.stretch.append([message]);
      if (follows && this.stretch.list.length > 1.5 * mostInMemory) this.stretch.keepNewest(mostInMemory);
    }
    return true;
  }

  /** Draws the line "new messages" above messages that arrived unseen, if everything before them was read. */
  markLine(messages) {
    if (messages[0].seq === this.readSeq + 1) this.lineAfter = this.readSeq;
  }

  #receivedTyping(userName) {
    if (!this.#watched || sameName(userName, this.#user.userName)) return;
    clearTimeout(this.#typing.get(userName));
    const timer = setTimeout(() => {
      this.#stopTyping(userName);
      this.#changed();
    }, typingLasts);
    this.#typing.set(userName, timer);
  }

  #stopTyping(userName) {
    clearTimeout(this.#typing.get(userName));
    this.#typing.delete(userName);
  }

  async #loadPresent() {
    if (!this.#watched || this.connection !== "open") return;
    try {
      this.present = (await this.#call(api.listPresent)).sort(byName);
      this.#changed();
    } catch {
      // The session goes on telling who comes and goes; the list is asked for again when it is resumed.
    }
  }

  /** Loads what the user came for: the first unread messages, or the end. Does nothing while a load is under way. */
  loadStart() {
    if (this.loaded || this.#loading) return;
    const { unread, readSeq } = this;
    const begin = (messages) => this.#begin(messages);
    if (unread > mostUnread) this.#load(() => this.#page(readSeq + mostUnread, page), begin);
    else this.#load(() => this.#page(0, unread + firstPage), begin);
  }

  /** Loads the end, whatever is in memory now, and moves the view there. */
  loadEnd() {
    this.view = { atEnd: true };
    if (this.complete) return;
    this.#loading = 0; // what is under way is of no use now
    this.#load(() => this.#page(0, firstPage), (messages) => this.#begin(messages));
  }

  /** Loads the messages before those in memory. Does nothing at the beginning, or while a load is under way. */
  loadOlder() {
    if (this.#loading || !this.loaded || this.stretch.first <= 1) return;
    this.#load(() => this.#page(this.stretch.first, page), (older) => {
      this.stretch.prepend(older);
      this.stretch.keepOldest(mostInMemory);
    });
  }

  /** Loads the messages after those in memory. Does nothing at the end, or while a load is under way. */
  loadNewer() {
    if (this.#loading || !this.loaded || this.complete) return;
    if (this.view?.atEnd && this.lastSeq - this.stretch.last > page) {
      this.loadEnd();
      return;
    }
    this.#load(() => this.#pageAfter(this.stretch.last), (newer) => {
      this.stretch.append(newer);
      this.stretch.keepNewest(mostInMemory);
    });
  }

  #begin(messages) {
    this.stretch.replace(messages);
    this.loaded = true;
  }

  async #load(fetch, use) {
    if (Date.now() < this.#retry) return;
    const load = (this.#loading = ++this.#loads);
    let messages;
    try {
      messages = await fetch();
    } catch (error) {
      if (load !== this.#loading) return;
      this.#loading = 0;
      if (error.tokenRefused || ["ROOM_DELETED", "HISTORY_RESTORED"].includes(error.code)) {
        this.#end(error);
        return;
      }
      this.#retry = Date.now() + retryAfter;
      setTimeout(() => this.#changed(), retryAfter + 10); // who shows the room asks again then
      return;
    }
    if (load !== this.#loading) return;
    this.#loading = 0;
    for (const message of messages) this.#acknowledge(message);
    use(messages);
    this.lastSeq = Math.max(this.lastSeq, this.stretch.last);
    this.#changed();
  }

  // History too can tell that a message is stored: it came while the page was closed or reloaded.
  #acknowledge(message) {
    const written = this.outbox.find(({ id }) => id === message.id);
    if (written && this.isOwn(message)) this.#settle(written);
  }

  async #page(beforeSeq, limit) {
    const messages = await this.#call((token, code) => api.listMessages(token, code, beforeSeq, limit));
    return messages.map(Message.fromHistory);
  }

  // Pages go backwards, and may be short: ask until the answer joins on.
  async #pageAfter(seq) {
    let before = Math.min(seq + page, this.lastSeq) + 1;
    let messages = [];
    while (before > seq + 1) {
      const older = await this.#page(before, before - 1 - seq);
      if (!older.length) break;
      messages = older.concat(messages);
      before = older[0].seq;
    }
    return messages;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

const order = new Intl.Collator(undefined, { sensitivity: "base", numeric: true });
const byName = (a, b) => order.compare(a, b);
