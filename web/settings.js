import * as api from "./api.js";
import { Rows, button, el, keepFocus, setText } from "./dom.js";

const retryAfter = 2_500; // ms until members that could not be loaded are asked for again
const mostListed = 200; // members, of those that the search finds

/**
 * The dialog of a room: its members for everybody, and what its owner or an ADMIN does to them and to the room.
 * `onLeft(room)` is called when the user has left it; `signal` ends it.
 */
export class RoomSettings {
  #dialog;
  #session;
  #ask;
  #onLeft;
  #room = null;
  #members = [];
  #bans = [];
  #memberRows;
  #banRows;
  #loads = 0; // tells the last answer from those that are late
  #drawn = ""; // what was known of the room

  constructor(dialog, session, ask, onLeft, signal) {
    this.#dialog = dialog;
    this.#session = session;
    this.#ask = ask;
    this.#onLeft = onLeft;
    this.#memberRows = new Rows(this.#find("#members"));
    this.#banRows = new Rows(this.#find("#bans"));
    const click = (id, listener) => (this.#find(id).onclick = listener);
    click("#rename", () => this.#rename());
    click("#room-password", () => this.#newPassword());
    click("#ban-name", () => this.#banByName());
    click("#leave-room", () => this.#leave());
    click("[value=cancel]", () => dialog.close());
    this.#find("#find-member").oninput = () => this.#draw();
    dialog.onclose = () => (this.#room = dialog.open ? this.#room : null);
    session.addEventListener("change", () => this.#changed(), { signal });
  }

  open(room) {
    this.#room = room;
    this.#members = this.#bans = [];
    this.#find("#find-member").value = "";
    this.#draw();
    this.#dialog.showModal();
    this.#load();
  }

  /** Closes the dialog, or only if it is that of a room. */
  close(room = this.#room) {
    if (room === this.#room) this.#dialog.close();
  }

  #find(selector) {
    return this.#dialog.querySelector(selector);
  }

  get #may() {
    return this.#room.owned || this.#session.admin;
  }

  get #known() {
    return JSON.stringify([this.#room.name, this.#room.owner, this.#may]);
  }

  // The room may get another name or owner while it is open.
  #changed() {
    if (!this.#room || this.#drawn === this.#known) return;
    this.#draw();
    this.#load();
  }

  async #load() {
    const room = this.#room;
    if (!room) return; // closed meanwhile
    const load = ++this.#loads;
    const late = () => load !== this.#loads || room !== this.#room;
    const get = (call) => this.#session.asUser((token) => call(token, room.code));
    let error = "";
    try {
      const [members, bans] = await Promise.all([get(api.listMembers), this.#may ? get(api.listBans) : []]);
      if (late()) return;
      this.#members = members;
      this.#bans = bans;
    } catch (failed) {
      error = failed.message;
      if (!failed.status || failed.status >= 429) setTimeout(() => late() || this.#load(), retryAfter);
    }
    if (late()) return;
    setText(this.#find(".error"), error);
    this.#draw();
  }

  #draw() {
    const { name, owned } = this.#room;
    const may = this.#may;
    this.#drawn = this.#known;
    setText(this.#find("h2"), name);
    this.#find("#room-changes").hidden = this.#find("#banned").hidden = !may;
    this.#find("#leave-room").hidden = owned;
    this.#find("#owner-stays").hidden = !owned;
    this.#find("#find-member").hidden = this.#members.length <= 10;
    const sought = this.#find("#find-member").value.trim().toLowerCase();
    const found = this.#members.filter(({ user_name }) => user_name.toLowerCase().includes(sought));
    setText(this.#find("#member-count"), this.#members.length ? String(this.#members.length) : "");
    this.#memberRows.show([found, may], () => {
      const rows = found.slice(0, mostListed).map((member) => this.#member(member));
      if (found.length > rows.length) rows.push(el("li", { className: "quieter" }, `and ${found.length - rows.length} more: search for them`));
      return rows;
    });
    this.#banRows.show(this.#bans, () =>
      this.#bans.map(({ user_name }) =>
        row(user_name, "", button("Unban", () => this.#do(() => this.#set(this.#room, api.setBan, user_name, false)), `Unban ${user_name}`)),
      ),
    );
    setText(this.#find("#no-bans"), this.#bans.length ? "" : "Nobody is banned.");
    keepFocus(this.#dialog);
  }

  #member({ user_name, owner }) {
    const own = user_name.toLowerCase() === this.#session.userName.toLowerCase();
    const notes = [owner && "owner", own && "you"].filter(Boolean).join(", ");
    const act = (text, task) => button(text, task, `${text}: ${user_name}`);
    const actions = this.#may && !owner && [
      act("Make owner", () => this.#handOver(user_name)),
      !own && act("Remove", () => this.#remove(user_name)),
      !own && act("Ban", () => this.#ban(user_name)),
    ];
    return row(user_name, notes, ...(actions || []).filter(Boolean));
  }

  // Does something, and shows what has become of it.
  async #do(task) {
    try {
      await task();
    } catch (error) {
      setText(this.#find(".error"), error.message);
      return;
    }
    await this.#load();
  }

  #set(room, call, ...parameters) {
    return this.#session.asUser((token) => call(token, room.code, ...parameters));
  }

  // Asks about the room; `submit` is called with it and the values, for the dialog may show none any more by then.
  async #question(question, submit) {
    const room = this.#room;
    if (await this.#ask.ask({ ...question, room }, (values) => submit(room, values))) await this.#load();
  }

  #rename() {
    this.#question(
      { title: "Rename the room", confirm: "Rename", fields: [{ name: "name", label: "Name", maxLength: 64, value: this.#room.name }] },
      async (room, { name }) => {
        if (!name.trim()) throw new Error("Give the room a name.");
        await this.#session.change(room, { room_name: name.trim() });
      },
    );
  }

  #newPassword() {
    this.#question(
      {
        title: "New room password",
        text: "Who is a member stays one. Without a password, everybody who has the link can join.",
        confirm: "Set password",
        fields: [{ name: "password", label: "Password", hint: "empty: none", maxLength: 256 }],
      },
      (room, { password }) => this.#session.change(room, { room_password: password }),
    );
  }

  #handOver(name) {
    this.#question(
      {
        title: `Make ${name} the owner?`,
        text: "A room has one owner. You stay a member, if you are one.",
        confirm: "Hand over",
        danger: true,
      },
      (room) => this.#session.change(room, { owner: name }),
    );
  }

  #remove(name) {
    this.#question(
      { title: `Remove ${name}?`, text: "Who knows the room's password, if it has one, can join again: ban who is to stay out.", confirm: "Remove", danger: true },
      (room) => this.#set(room, api.removeMember, name),
    );
  }

  #ban(name) {
    this.#question(
      { title: `Ban ${name}?`, text: "They are removed, and cannot come back until you unban them. What they wrote stays.", confirm: "Ban", danger: true },
      (room) => this.#set(room, api.setBan, name, true),
    );
  }

  #banByName() {
    this.#question(
      { title: "Ban somebody", text: "Also who is no member, so as never to become one.", confirm: "Ban", danger: true, fields: [{ name: "name", label: "User name" }] },
      (room, { name }) => {
        if (!name.trim()) throw new Error("Enter a user name.");
        return this.#set(room, api.setBan, name.trim(), true);
      },
    );
  }

  async #leave() {
    const room = this.#room;
    const text = "You get none of its messages any more. To come back, you need its link and its password.";
    await this.#ask.ask({ title: `Leave “${room.name}”?`, text, confirm: "Leave room", danger: true, room }, async () => {
      await this.#session.leave(room);
      this.close(room);
      this.#onLeft(room);
    });
  }
}

function row(name, notes, ...actions) {
  return el("li", {}, el("span", { className: "what" }, name, " ", el("span", { className: "quieter" }, notes)), ...actions);
}
