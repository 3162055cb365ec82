import { fullTimeText, timeText, dayText } from "./dates.js";
import { el, icon } from "./dom.js";

const address = /https?:\/\/[^\s<>"]+/gi;
const closers = { ")": "(", "]": "[", "}": "{" };
const grouped = 5 * 60_000; // ms within which messages of one sender stand under one name

/** What stands above a message's text, as bits. */
export const DAY = 1;
export const LINE = 2;
export const NAME = 4;

/** How a message looks after the one before it, null for the first of the room. */
export function lookOf(message, before, lineAfter) {
  let look = 0;
  if (message.day !== before?.day) look |= DAY;
  if (lineAfter !== null && message.seq === lineAfter + 1) look |= LINE;
  if (look || before.userName !== message.userName || message.at - before.at > grouped) look |= NAME;
  return look;
}

const states = { pending: ["clock", "Waiting to be sent"], sent: ["check", "Sent"], rejected: ["alert", "Not sent"] };

/** One message on the page. `onEdit` and `onDiscard` are called for a rejected one. */
export class Row {
  node = el("li", { className: "message" });

  #message;
  #own;
  #actions;
  #look = -1;
  #at = 0;
  #state = "";
  #above = [];
  #below = [];
  #mark = null;
  #content;

  constructor(message, own, actions) {
    this.#message = message;
    this.#own = own;
    this.#actions = actions;
    const body = el("div", { className: "body", dir: "auto" }, ...textNodes(message.body));
    this.#content = el("div", { className: "content" }, body);
    this.node.append(this.#content);
    if (own) this.node.classList.add("own");
    this.node.dataset.id = message.id;
  }

  /** Brings the row up to date. */
  update(look) {
    const { state, at, seq } = this.#message;
    if (look !== this.#look || at !== this.#at) this.#updateAbove(look, at);
    if (state !== this.#state) this.#updateState(state);
    if (seq !== null) this.node.dataset.seq = seq;
    this.#look = look;
    this.#at = at;
    this.#state = state;
  }

  #updateAbove(look, at) {
    for (const node of this.#above) node.remove();
    const { userName, day } = this.#message;
    const time = el("time", { dateTime: new Date(at).toISOString(), title: fullTimeText(at) }, timeText(at));
    this.#above = [];
    if (look & DAY) this.#above.push(el("div", { className: "day" }, el("span", {}, dayText(day))));
    if (look & LINE) this.#above.push(el("div", { className: "line" }, el("span", {}, "New messages")));
    if (look & NAME) {
      const initial = el("span", { className: "initial", "aria-hidden": "true" }, userName.charAt(0).toUpperCase());
      this.#above.push(el("div", { className: "head" }, initial, el("span", { className: "sender" }, userName), time));
    } else {
      // Only for who hears the page, and, when the pointer is on it, its time.
      const sender = el("span", { className: "unseen" }, userName);
      this.#above.push(el("div", { className: "head again" }, sender, time));
    }
    this.node.prepend(...this.#above);
  }

  #updateState(state) {
    this.node.dataset.state = state;
    for (const node of this.#below) node.remove();
    this.#below = [];
    if (!this.#own) return;
    const [name, text] = states[state];
    const mark = el("span", { className: "state", title: text }, icon(name), el("span", { className: "unseen" }, text));
    this.#mark?.remove();
    this.node.append((this.#mark = mark));
    if (state === "rejected") {
      const edit = el("button", { type: "button", className: "quiet" }, "Edit");
      const discard = el("button", { type: "button", className: "quiet" }, "Discard");
      edit.onclick = () => this.#actions.onEdit(this.#message);
      discard.onclick = () => this.#actions.onDiscard(this.#message);
      const reason = el("span", {}, `Not sent: ${this.#message.reason}`);
      this.#below.push(el("div", { className: "reason" }, reason, edit, discard));
      this.#content.append(...this.#below);
    }
  }
}

// The nodes of a message's text: strings, and a link for each http:// and https:// address in it.
function textNodes(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(address)) {
    const href = withoutPunctuation(match[0]);
    if (!URL.canParse(href)) continue;
    nodes.push(text.slice(end, match.index), link(href));
    end = match.index + href.length;
  }
  nodes.push(text.slice(end));
  return nodes;
}

function link(href) {
  return el("a", { href, target: "_blank", rel: "noopener noreferrer" }, href);
}

// What ends a sentence is not part of the address, nor is a bracket that was opened before it.
function withoutPunctuation(href) {
  const count = (bracket) => href.split(bracket).length - 1;
  const surplus = {};
  for (const [closer, opener] of Object.entries(closers)) surplus[closer] = count(closer) - count(opener);
  let end = href.length;
  for (; end > 0; end--) {
    const last = href[end - 1];
    if (last in closers ? surplus[last]-- <= 0 : !".,;:!?'*_~".includes(last)) break;
  }
  return href.slice(0, end);
}
