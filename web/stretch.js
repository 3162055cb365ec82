/**
 * The messages of a room that are in memory: one stretch of its history without a gap, oldest first. As seq runs
 * without a gap too, a message's place follows from its seq.
 */
export class Stretch {
  /** The seq of the first message. An empty stretch is before it: of an empty room, 1. */
  first = 1;
  /** There is no message before this seq: 1, unless older ones were removed. */
  oldest = 1;
  list = [];

  /** Whether there is nothing before it. */
  get begins() {
    return this.first <= this.oldest;
  }

  get last() {
    return this.first + this.list.length - 1;
  }

  /** The message with a seq, or undefined. */
  at(seq) {
    return this.list[seq - this.first];
  }

  /** Begins anew with a page of history, or before the seq `next` if the page is empty: then there is no message. */
  replace(page, next) {
    this.first = page.length ? page[0].seq : next;
    if (!page.length) this.oldest = next;
    this.list = page;
  }

  /** Adds an older page; what does not join on is left out. An empty one says that there is nothing older. */
  prepend(page) {
    if (!page.length) this.oldest = this.first;
    const older = page.filter((message) => message.seq < this.first);
    if (!older.length || older.at(-1).seq !== this.first - 1) return;
    this.list = older.concat(this.list);
    this.first = older[0].seq;
  }

  /** Adds newer messages; what does not join on is left out. */
  append(page) {
    for (const message of page) {
      if (message.seq === this.last + 1) this.list.push(message);
    }
  }

  /** Drops the oldest so that `count` remain. */
  keepNewest(count) {
    const drop = this.list.length - count;
    if (drop <= 0) return;
    this.list.splice(0, drop);
    this.first += drop;
  }

  /** Drops the newest so that `count` remain. */
  keepOldest(count) {
    if (this.list.length > count) this.list.length = count;
  }
}
