import { oncePerFrame } from "./dom.js";
import { DAY, LINE, NAME, Row, lookOf } from "./row.js";

const atEndWithin = 4; // px
const margin = 600; // px above and below what is seen that are on the page too
const near = 1_500; // px from an end of what is in memory, where more is loaded
const lineAt = 96; // px below the top, where the line "new messages" stands when a room is opened

/**
 * The messages of a room, scrolled. Only those in or near the window are on the page; two paddings stand for the
 * others. Heights are measured when a message is put on the page and kept; before, they are estimated. Whatever
 * becomes known or is added above, the first message that is seen stays where it is, or the end stays at the
 * bottom if the reader is there.
 *
 * Where the reader is, it keeps as the room's view: `atEnd`, or the message (by identity, or by seq once that is no
 * more in memory) and how far below its top the window begins.
 */
export class Timeline {
  #scroller;
  #list;
  #actions;
  #room = null;
  #rows = new Map(); // message → Row, those on the page
  #messages = new WeakMap(); // row's node → message
  #heights = new WeakMap(); // message → { height, look, measured }
  #width = 0; // of the list
  #items = [];
  #offsets = [0]; // of each item's top, from the top of the list, and of the end
  #base = 0; // the top of the list
  #top = 0; // where we have left the scroller
  #render = oncePerFrame(() => this.#draw());
  #observer = new ResizeObserver((entries) => this.#resized(entries));

  /**
   * `scroller` scrolls and has `list` in it; `actions` are a Row's, and `onView()`, called after each change of what is
   * seen; `signal` ends it.
   */
  constructor(scroller, list, actions, signal) {
    this.#scroller = scroller;
    this.#list = list;
    this.#actions = actions;
    this.#observer.observe(scroller);
    scroller.addEventListener("scroll", () => this.#render(), { passive: true, signal });
    signal.addEventListener("abort", () => this.#observer.disconnect());
  }

  /** Whether the reader is at the end of the room. */
  get atEnd() {
    return Boolean(this.#room?.view?.atEnd);
  }

  /** Shows a room, or none (null). */
  show(room) {
    if (room === this.#room) return;
    this.#capture();
    this.clear();
    this.#room = room;
    this.#draw();
  }

  /** Draws anew, in the next frame. */
  update() {
    this.#render();
  }

  /** Takes everything off the page and measures anew: at midnight, "Today" is another day. */
  clear() {
    for (const [message, row] of this.#rows) this.#remove(message, row);
    this.#list.style.paddingTop = this.#list.style.paddingBottom = "0px";
    this.#items = [];
    this.#offsets = [0];
    this.#top = this.#scroller.scrollTop;
  }

  // Takes over where the reader has scrolled to since we have set it.
  #capture() {
    const top = this.#scroller.scrollTop;
    if (!this.#room?.view || Math.abs(top - this.#top) < 1) return;
    const room = this.#room;
    this.#top = top;
    const bottom = this.#scroller.scrollHeight - this.#scroller.clientHeight - top;
    if (bottom <= atEndWithin && room.history.complete) {
      room.keepView({ atEnd: true });
    } else if (this.#items.length) {
      const i = this.#indexAt(top);
      const message = this.#items[i];
      room.keepView({ message, seq: message.seq, delta: top - this.#base - this.#offsets[i] });
    }
  }

  // The last item that begins at or above a place of the scroller, or the first one.
  #indexAt(top) {
    let low = 0;
    let high = this.#items.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#base + this.#offsets[middle] <= top) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  #draw() {
    const room = this.#room;
    if (!room) return;
    const { history } = room;
    if (!history.loaded) history.loadStart(room.readSeq);
    this.#capture();
    this.#items = room.messages;
    const looks = this.#looks(room);
    const opening = history.loaded && !room.view;
    if (opening) room.keepView(this.#startOf(room));

    // Measuring what an estimate put on the page can show that more, or other, messages belong there.
    for (let round = 0; round < 6; round++) {
      this.#place(looks);
      const [from, to] = this.#range(this.#target(room));
      if (!this.#fill(from, to, looks)) break;
    }
    this.#base = this.#list.offsetTop;
    const target = this.#target(room);
    if (Math.abs(this.#scroller.scrollTop - target) >= 1) this.#scroller.scrollTop = target;
    this.#top = this.#scroller.scrollTop;

    const { scrollHeight, clientHeight } = this.#scroller;
    const below = scrollHeight - clientHeight - this.#top;
    if (opening && history.complete && below <= atEndWithin) room.keepView({ atEnd: true });
    if (history.loaded && clientHeight) {
      if (this.#top < near) history.loadOlder();
      if (below < near) history.loadNewer(this.atEnd);
      this.#see(clientHeight);
    }
    this.#actions.onView();
  }

  #looks({ history: { stretch }, lineAfter }) {
    const looks = new Uint8Array(this.#items.length);
    let before = stretch.begins ? null : stretch.list[0];
    this.#items.forEach((message, i) => {
      looks[i] = lookOf(message, before, lineAfter);
      before = message;
    });
    return looks;
  }

  // Where a room opens: at the line "new messages" if it is in memory, else at the end.
  #startOf(room) {
    const message = room.lineAfter === null ? null : room.history.stretch.at(room.lineAfter + 1);
    return message ? { message, seq: message.seq, delta: -lineAt } : { atEnd: true };
  }

  // Gives every item its offset, by its measured or estimated height.
  #place(looks) {
    const offsets = new Float64Array(this.#items.length + 1);
    this.#items.forEach((message, i) => {
      let known = this.#heights.get(message);
      if (!known || known.look !== looks[i]) {
        known = { height: this.#estimate(message, looks[i]), look: looks[i], measured: false };
        this.#heights.set(message, known);
      }
      offsets[i + 1] = offsets[i] + known.height;
    });
    this.#offsets = offsets;
  }

  #estimate({ body }, look) {
    const perLine = Math.max(20, (this.#width - 110) / 7.2);
    const lines = Math.ceil(body.length / perLine) + (body.match(/\n/g)?.length ?? 0);
    return 4 + lines * 22 + (look & DAY ? 52 : 0) + (look & LINE ? 36 : 0) + (look & NAME ? 36 : 0);
  }

  // Where the scroller should be.
  #target(room) {
    const end = Math.max(0, this.#base + this.#offsets.at(-1) + this.#below() - this.#scroller.clientHeight);
    const { view } = room;
    if (!view || view.atEnd || !this.#items.length) return end;
    let i = this.#items.indexOf(view.message);
    if (i < 0) {
      // The message was loaded anew, or is no more in memory.
      i = Math.max(0, Math.min(this.#items.length - 1, (view.seq ?? Infinity) - (this.#items[0].seq ?? 0)));
    }
    return Math.max(0, Math.min(end, this.#base + this.#offsets[i] + view.delta));
  }

  // What is in the scroller below the list.
  #below() {
    return parseFloat(getComputedStyle(this.#list).marginBottom) || 0;
  }

  #range(top) {
    const bottom = top + this.#scroller.clientHeight + margin;
    const from = this.#items.length ? this.#indexAt(top - margin) : 0;
    let to = from;
    while (to < this.#items.length && this.#base + this.#offsets[to] < bottom) to++;
    return [from, to];
  }

  // Puts the items of a range on the page, and returns whether one has another height than was thought.
  #fill(from, to, looks) {
    const shown = this.#items.slice(from, to);
    const staying = new Set(shown);
    for (const [message, row] of this.#rows) {
      if (!staying.has(message)) this.#remove(message, row);
    }
    let next = this.#list.firstChild;
    shown.forEach((message, i) => {
      let row = this.#rows.get(message);
      if (!row) row = this.#add(message);
      row.update(looks[from + i]);
      if (row.node === next) next = next.nextSibling;
      else this.#list.insertBefore(row.node, next);
    });
    this.#list.style.paddingTop = `${this.#offsets[from]}px`;
    this.#list.style.paddingBottom = `${this.#offsets.at(-1) - this.#offsets[to]}px`;

    let changed = false;
    shown.forEach((message) => {
      const known = this.#heights.get(message);
      if (known.measured) return;
      const { height } = this.#rows.get(message).node.getBoundingClientRect();
      changed ||= height !== known.height;
      known.height = height;
      known.measured = true;
    });
    const base = this.#list.offsetTop;
    changed ||= base !== this.#base;
    this.#base = base;
    return changed;
  }

  #add(message) {
    const row = new Row(message, this.#room.isOwn(message), this.#actions);
    this.#rows.set(message, row);
    this.#messages.set(row.node, message);
    this.#observer.observe(row.node);
    return row;
  }

  #remove(message, row) {
    // The keyboard's place would be lost with the row.
    if (row.node.contains(document.activeElement)) this.#scroller.focus({ preventScroll: true });
    this.#observer.unobserve(row.node);
    row.node.remove();
    this.#rows.delete(message);
  }

  #resized(entries) {
    const width = this.#list.clientWidth;
    if (width !== this.#width) {
      this.#width = width;
      this.#heights = new WeakMap();
    }
    for (const { target, borderBoxSize } of entries) {
      const known = this.#heights.get(this.#messages.get(target));
      if (known && target.isConnected) known.height = borderBoxSize[0].blockSize;
    }
    this.#render();
  }

  // Tells the room what the reader has seen.
  #see(clientHeight) {
    if (document.hidden || !this.#items.length) return;
    const bottom = this.#top + clientHeight + atEndWithin;
    let i = this.#indexAt(bottom);
    if (this.#base + this.#offsets[i + 1] > bottom) i--;
    while (i >= 0 && this.#items[i].seq === null) i--;
    if (i >= 0) this.#room.read(this.#items[i].seq);
  }
}
