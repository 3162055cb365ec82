import { el, setText } from "./dom.js";

/** The list of rooms. Its items stay the same elements as long as their rooms do, so the keyboard keeps its place. */
export class Sidebar {
  #list;
  #items = new Map(); // room → { item, link, name, badge }

  constructor(list) {
    this.#list = list;
  }

  /** Shows rooms in the given order, the current one marked. */
  update(rooms, current) {
    const shown = new Set(rooms);
    for (const [room, { item }] of this.#items) {
      if (shown.has(room)) continue;
      item.remove();
      this.#items.delete(room);
    }
    let next = this.#list.firstChild;
    for (const room of rooms) {
      const parts = this.#items.get(room) ?? this.#add(room);
      if (parts.item === next) next = next.nextSibling;
      else this.#list.insertBefore(parts.item, next);
      this.#updateItem(parts, room, room === current);
    }
  }

  #add(room) {
    const name = el("span", { className: "name", dir: "auto" });
    const badge = el("span", { className: "badge" });
    const link = el("a", { href: `#${room.code}`, dataset: { code: room.code } }, name, badge);
    const parts = { item: el("li", {}, link), link, name, badge };
    this.#items.set(room, parts);
    return parts;
  }

  #updateItem({ link, name, badge }, room, isCurrent) {
    const { unread } = room;
    setText(name, room.name);
    setText(badge, unread > 999 ? "999+" : unread ? String(unread) : "");
    link.ariaLabel = unread ? `${room.name}, ${unread} unread` : null;
    link.title = room.name;
    link.ariaCurrent = isCurrent ? "page" : null;
    link.dataset.unread = unread;
  }
}
