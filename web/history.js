import { Message } from "./message.js";
import { Stretch } from "./stretch.js";

const page = 200; // messages asked for at once: the server's most
const firstPage = 60; // messages that a room opens with, beside the unread ones
const mostInMemory = 1_000; // messages of a room
const mostUnread = page - firstPage; // with more, a room opens at the first unread message and not at its end
const retryAfter = 2_500; // ms until a failed load is tried again

/**
 * The stored messages of a room that are in memory: those that were loaded, and those that came live since.
 *
 * It is driven by its handlers:
 * - `page(beforeSeq, limit)` resolves to a page as GET /rooms/CODE/messages tells it, or rejects with an ApiError;
 * - `stored(message)` is called for each message that was loaded: it may stand in an outbox still;
 * - `changed()` tells that there is more to show, or that a failed load is to be asked for again;
 * - `ended(error)` tells that there is nothing to come back to: the room or the log-in is gone.
 */
export class History {
  stretch = new Stretch();
  /** Whether the stretch is what the user came for. Before, there is none, or an old one. */
  loaded = false;
  /** The newest seq that is known of. */
  lastSeq = 0;

  #handlers;
  #loading = 0; // the number of the load that is under way, 0 for none
  #loads = 0;
  #retryTimer = 0; // runs while no load is tried

  constructor(handlers) {
    this.#handlers = handlers;
  }

  /** Whether the newest message is in memory. */
  get complete() {
    return this.loaded && this.stretch.last >= this.lastSeq;
  }

  /** Takes note of a seq that there is. */
  know(seq) {
    this.lastSeq = Math.max(this.lastSeq, seq);
  }

  /** Takes in a message that came live. `follows`: the user is at the end, and older ones can go for it. */
  arrived(message, follows) {
    this.know(message.seq);
    if (!this.loaded || (!follows && this.stretch.list.length >= mostInMemory)) return;
    this.stretch.append([message]);
    if (this.stretch.list.length > 1.5 * mostInMemory) this.stretch.keepNewest(mostInMemory);
  }

  /** Makes the next loadStart load anew unless the message with a seq is in memory. */
  require(seq) {
    if (!this.stretch.at(seq)) this.loaded = false;
  }

  /** Loads what the user came for: the first messages after `readSeq`, or the end. No load begins during another. */
  loadStart(readSeq) {
    if (this.loaded || this.#loading) return;
    const unread = Math.max(0, this.lastSeq - readSeq);
    const begin = this.#beginning();
    if (unread > mostUnread) this.#load(() => this.#firstUnread(readSeq), begin);
    else this.#load(() => this.#page(0, unread + firstPage), begin);
  }

  /** Loads the end, whatever is in memory now, and in place of a load that is under way. */
  loadEnd() {
    if (this.complete) return;
    this.#loading = 0; // what is under way is of no use now
    this.#load(() => this.#page(0, firstPage), this.#beginning());
  }

  /** Loads the messages before those in memory. */
  loadOlder() {
    if (this.#loading || !this.loaded || this.stretch.begins) return;
    this.#load(() => this.#page(this.stretch.first, page), (older) => {
      this.stretch.prepend(older);
      this.stretch.keepOldest(mostInMemory);
    });
  }

  /** Loads the messages after those in memory; for a user who `follows` the end and has fallen far behind, the end. */
  loadNewer(follows) {
    if (this.#loading || !this.loaded || this.complete) return;
    if (follows && this.lastSeq - this.stretch.last > page) {
      this.loadEnd();
      return;
    }
    this.#load(() => this.#pageAfter(this.stretch.last), (newer) => {
      if (newer[0]?.seq !== this.stretch.last + 1) this.loaded = false; // those between were removed meanwhile
      this.stretch.append(newer);
      this.stretch.keepNewest(mostInMemory);
    });
  }

  /** A load that failed is tried again when it is asked for next, and not only after a while. */
  hurry() {
    clearTimeout(this.#retryTimer);
    this.#retryTimer = 0;
  }

  /** Gives up what is under way. */
  stop() {
    this.#loading = 0;
    this.hurry();
  }

  // What to do with the page that is asked for now. An empty one says nothing of what has come since.
  #beginning() {
    const next = this.lastSeq + 1;
    return (messages) => {
      this.stretch.replace(messages, next);
      this.loaded = true;
    };
  }

  async #load(fetch, use) {
    if (this.#retryTimer) return;
    const load = (this.#loading = ++this.#loads);
    let messages;
    try {
      messages = await fetch();
    } catch (error) {
      if (load === this.#loading) this.#failed(error);
      return;
    }
    if (load !== this.#loading) return;
    this.#loading = 0;
    for (const message of messages) this.#handlers.stored(message);
    use(messages);
    this.know(this.stretch.last);
    this.#handlers.changed();
  }

  #failed(error) {
    this.#loading = 0;
    if (error.tokenRefused || ["ROOM_DELETED", "HISTORY_RESTORED"].includes(error.code)) {
      this.#handlers.ended(error);
      return;
    }
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = 0;
      this.#handlers.changed(); // who shows the room asks again then
    }, retryAfter);
  }

  async #page(beforeSeq, limit) {
    return (await this.#handlers.page(beforeSeq, limit)).map(Message.fromHistory);
  }

  // Where the first unread messages were removed, the end is all that is known to be there.
  async #firstUnread(readSeq) {
    const messages = await this.#page(readSeq + mostUnread, page);
    return messages.length ? messages : this.#page(0, page);
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
}
