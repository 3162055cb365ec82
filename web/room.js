import * as api from "./api.js";
import { Connection } from "./connection.js";
import { History } from "./history.js";
import { Message } from "./message.js";

const acknowledged = 12_000; // ms for an acknowledgement, before the session is taken for dead
const deliveryTakes = 4_000; // ms within which a live session brings what the list of rooms tells of
const typingLasts = 5_000; // ms
const typingEvery = 2_500; // ms between two notes that the user types
const sameName = (a, b) => a.toLowerCase() === b.toLowerCase();

/**
 * One room of the user: what is known of it, its session, and the messages to send.
 *
 * Events: "change" after anything that can be seen, "opened" when its session is, "arrived" (with `messages`, those of
 * others that came live), "ended" (with `error`, as a Connection tells it) when there is nothing to come back to.
 */
export class Room extends EventTarget {
  code;
  name;
  owner;
  /** What is stored. */
  history = new History({
    page: (beforeSeq, limit) => this.#call((token, code) => api.listMessages(token, code, beforeSeq, limit)),
    stored: (message) => this.#acknowledge(message),
    changed: () => this.#changed(),
    ended: (error) => this.#end(error),
  });
  /** The last seq that the user has seen. */
  readSeq;
  /** The line "new messages" stands after this seq; null: there is none. */
  lineAfter = null;
  /** What was written and is not stored yet, oldest first. */
  outbox = [];
  /** The names of those present, sorted, or null before they are known. */
  present = null;
  /** Where the timeline stands: `{ atEnd, seq, message, delta }`, or null for where reading stopped. */
  view = null;

  #user;
  #store;
  #token = null; // a promise: one call for all who need it
  #joined = false; // or tried to: the list that told of the room may be old
  #cursor;
  #connection;
  #kept = new WeakSet(); // of the outbox, what is stored unless a tab has taken it away
  #shown = false; // to the user: presence and typing matter
  #moves = null; // while those present are asked for: who has come (true) or left (false) since, by name
  #typing = new Map(); // user name → timer
  #typedAt = 0;
  #acknowledgeTimer = 0;
  #deliveryTimer = 0;

  /** `user` has `userName` and `token`, `store` is the member's; `listed` is the room as GET /rooms tells it. */
  constructor(listed, user, store) {
    super();
    this.code = listed.short_code;
    this.#user = user;
    this.#store = store;
    this.update(listed);
    this.#cursor = this.history.lastSeq;
    this.readSeq = store.readSeq(this.code);
    // Past the end is what was read of messages that a restore has taken back.
    if (this.readSeq === null || this.readSeq > this.#cursor) this.#setRead(this.#cursor);
    this.outbox = store.outbox(this.code).map((written) => new Message({ seq: null, state: "pending", ...written }));
    for (const message of this.outbox) this.#kept.add(message);
    this.#connection = new Connection({
      token: (refused) => this.#roomToken(refused),
      cursor: () => this.#cursor,
      received: (events) => this.#received(events),
      changed: () => this.#connectionChanged(),
      ended: (error) => this.#end(error),
    });
  }

  get unread() {
    return Math.max(0, this.history.lastSeq - this.readSeq);
  }

  get owned() {
    return sameName(this.owner, this.#user.userName);
  }

  /** The messages that the timeline shows. */
  get messages() {
    const { stretch, loaded, complete } = this.history;
    // The message before the first one is only there to tell how that one looks: whose it follows, and on which day.
    const stored = stretch.begins ? stretch.list : stretch.list.slice(1);
    return complete || !loaded || this.view?.atEnd ? stored.concat(this.outbox) : stored;
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
    this.history.know(listed.last_seq ?? 0);
    this.#changed();
  }

  connect() {
    // What came while there was no session is fetched as history, when it is looked at.
    if (this.connection === "stopped" && !this.history.loaded) this.#cursor = this.history.lastSeq;
    this.#connection.start();
  }

  disconnect() {
    clearTimeout(this.#acknowledgeTimer);
    this.#clearDelivery();
    this.history.stop();
    this.#connection.stop();
  }

  /** Resumes the session, which may have died without a sign. */
  resume() {
    this.#connection.resume();
  }

  /** Tries at once to come back, as there is a sign that it may work. */
  hurry() {
    this.#connection.hurry();
  }

  /** Resumes the session if it does not bring soon what is known of now. */
  checkAlive() {
    const { lastSeq } = this.history;
    if (this.connection !== "open" || this.#cursor >= lastSeq || this.#deliveryTimer) return;
    this.#deliveryTimer = setTimeout(() => {
      this.#deliveryTimer = 0;
      if (this.#cursor < lastSeq) this.#connection.resume();
    }, deliveryTakes);
  }

  /** The user looks at the room from now on. */
  enter() {
    this.#shown = true;
    this.lineAfter = this.unread ? this.readSeq : null;
    if (this.unread) {
      this.keepView(null);
      this.history.require(this.readSeq + 1);
    }
    this.#loadPresent();
    this.#changed();
  }

  /** The user looks elsewhere. */
  leave() {
    this.#shown = false;
    this.#clearTyping();
  }

  /** Keeps where the timeline stands. */
  keepView(view) {
    this.view = view;
  }

  /** Moves the timeline to the newest message. */
  showEnd() {
    this.keepView({ atEnd: true });
    this.history.loadEnd();
  }

  /** Takes note that the user has seen everything up to a seq. */
  read(seq) {
    if (seq <= this.readSeq) return;
    this.#setRead(seq);
    this.#changed();
  }

  /** Takes over what another tab has read, and the rejected messages that it has discarded. */
  takeOver() {
    this.read(this.#store.readSeq(this.code) ?? 0);
    if (!this.outbox.length) return;
    const stored = new Set(this.#store.outbox(this.code).map(({ id }) => id));
    const left = this.outbox.filter((message) => message.state !== "rejected" || stored.has(message.id) || !this.#kept.has(message));
    if (left.length === this.outbox.length) return;
    this.outbox = left;
    this.#changed();
  }

  #setRead(seq) {
    this.readSeq = seq;
    this.#store.setReadSeq(this.code, seq);
  }

  /** Sends a message: it stands in the outbox until its event comes back. */
  send(body) {
    const message = Message.written(this.#user.userName, body.toWellFormed()); // half a character would be no JSON
    this.outbox.push(message);
    this.#keep(message);
    this.lineAfter = null;
    this.#typedAt = 0;
    this.#post(message);
    this.showEnd();
    this.#changed();
  }

  /** Takes a rejected message out of the outbox. */
  discard(message) {
    this.#settle(message);
    this.#changed();
  }

  /** Tells the others that the user types. */
  sendTyping() {
    if (this.connection !== "open" || Date.now() - this.#typedAt < typingEvery) return;
    this.#typedAt = Date.now();
    this.#connection.send({ typing: true });
  }

  #keep(message) {
    const { id, userName, body, at, state, reason } = message;
    if (this.#store.keep(this.code, { id, userName, body, at, state, reason })) this.#kept.add(message);
  }

  #settle(message) {
    this.outbox = this.outbox.filter((other) => other !== message);
    this.#store.drop(this.code, message.id);
  }

  #post(message) {
    this.#connection.send({ body: message.body, clientMessageId: message.id });
    clearTimeout(this.#acknowledgeTimer);
    this.#acknowledgeTimer = setTimeout(() => {
      if (this.outbox.some(({ state }) => state === "pending")) this.#connection.resume();
    }, acknowledged);
  }

  // History too can tell that a message is stored: it came while the page was closed or reloaded.
  #acknowledge(message) {
    const written = this.outbox.find(({ id }) => id === message.id);
    if (written && this.isOwn(message)) this.#settle(written);
  }

  #reject(message, reason) {
    message.state = "rejected";
    message.reason = reason;
    this.#keep(message);
  }

  async #roomToken(refused) {
    if (refused) this.#token = null;
    const token = (this.#token ??= this.#join(refused));
    try {
      return await token;
    } catch (error) {
      if (this.#token === token) this.#token = null;
      throw error;
    }
  }

  // Who was removed is not to come back by itself, into a room that has no password.
  async #join(refused) {
    const { token } = this.#user;
    const again = refused || this.#joined;
    this.#joined = true;
    if (again && !(await api.listRooms(token)).some(({ short_code }) => short_code === this.code)) {
      throw new api.ApiError(403, "ROOM_ACCESS_DENIED", "You are no longer a member of this room.");
    }
    return api.joinRoom(token, this.code, "");
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
      this.history.hurry();
      this.#loadPresent();
    } else {
      this.#clearTyping();
      this.#clearDelivery();
      if (this.connection === "waiting") this.#rejectCause(this.connectionReason);
    }
    this.#changed();
  }

  // A message that ended the session would end it again and again, and the server could not tell which it was.
  #rejectCause(reason) {
    const pending = this.outbox.filter(({ state }) => state === "pending");
    if (!pending.length) return;
    const longest = pending.reduce((a, b) => (a.body.length >= b.body.length ? a : b));
    if (reason === "BODY_TOO_LARGE") this.#reject(longest, "The message is too long.");
    else if (reason === "INVALID_JSON") this.#reject(pending[0], "The server cannot read this message.");
  }

  #clearDelivery() {
    clearTimeout(this.#deliveryTimer);
    this.#deliveryTimer = 0;
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
          this.#receivedMessage(event, arrived);
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
          this.#moved(event.userName, true);
          break;
        case "USER_LEFT":
          this.#stopTyping(event.userName);
          this.#moved(event.userName, false);
          break;
      }
    }
    if (arrived.length) this.dispatchEvent(Object.assign(new Event("arrived"), { messages: arrived }));
    this.#changed();
  }

  #receivedMessage(event, arrived) {
    const seq = Number(event.seq);
    const own = this.isOwn(event);
    const written = own && this.outbox.find(({ id }) => id === event.clientMessageId);
    if (written) this.#settle(written);
    if (seq <= this.#cursor) return; // a resend, answered with the seq that the message already had
    if (seq > this.#cursor + 1) this.history.require(seq); // what is between was removed

    const message = written || Message.fromEvent(event);
    if (written) written.stored(event);
    this.#cursor = seq;
    this.#stopTyping(event.userName);
    // Who writes has read what was there before, on whatever device.
    if (own) this.#setRead(Math.max(seq, this.readSeq));
    else arrived.push(message);
    this.history.arrived(message, this.view === null || this.view.atEnd);
  }

  /** Draws the line "new messages" above messages that arrived unseen, if everything before them was read. */
  markLine(messages) {
    if (messages[0].seq === this.readSeq + 1) this.lineAfter = this.readSeq;
  }

  #receivedTyping(userName) {
    if (!this.#shown || sameName(userName, this.#user.userName)) return;
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

  #clearTyping() {
    for (const userName of this.#typing.keys()) this.#stopTyping(userName);
  }

  #moved(userName, here) {
    this.#moves?.set(userName, here);
    if (!this.present || this.present.includes(userName) === here) return;
    this.present = here ? [...this.present, userName].sort(byName) : this.present.filter((name) => name !== userName);
  }

  async #loadPresent() {
    if (!this.#shown || this.connection !== "open") return;
    const moves = (this.#moves = new Map()); // the answer may be older than they are
    try {
      const names = new Set(await this.#call(api.listPresent));
      if (moves !== this.#moves) return; // it is asked for again
      for (const [name, here] of moves) here ? names.add(name) : names.delete(name);
      this.#moves = null;
      this.present = [...names].sort(byName);
      this.#changed();
    } catch {
      // The session goes on telling who comes and goes; the list is asked for again when it is resumed.
    }
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

const order = new Intl.Collator(undefined, { sensitivity: "base", numeric: true });
const byName = (a, b) => order.compare(a, b);
