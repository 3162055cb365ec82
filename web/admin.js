import * as api from "./api.js";
import { shortTimeText } from "./dates.js";
import { deleteQuestion } from "./dialogs.js";
import { Rows, button, el, keepFocus, setText } from "./dom.js";
import { passwordMistake } from "./signin.js";

const page = 50;
const searchAfter = 250; // ms without another key

/** The dialog of an ADMIN: all accounts and rooms of the server, and its audit log. */
export class AdminDialog {
  #dialog;
  #session;
  #ask;
  #what = "users";
  #rows = [];
  #list;
  #run = 0; // tells an answer from those of another search
  #timer = 0;

  constructor(dialog, session, ask) {
    this.#dialog = dialog;
    this.#session = session;
    this.#ask = ask;
    this.#list = new Rows(this.#find("#admin-list"));
    for (const tab of dialog.querySelectorAll("[data-what]")) tab.onclick = () => this.#show(tab.dataset.what);
    this.#find("#admin-query").oninput = () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.#load(), searchAfter);
    };
    this.#find("#admin-more").onclick = () => this.#load(this.#rows.at(-1)?.id);
    this.#find("[value=cancel]").onclick = () => dialog.close();
  }

  open() {
    this.#dialog.showModal();
    this.#show(this.#what);
  }

  close() {
    clearTimeout(this.#timer);
    this.#run++;
    this.#dialog.close();
  }

  #find(selector) {
    return this.#dialog.querySelector(selector);
  }

  #show(what) {
    this.#what = what;
    for (const tab of this.#dialog.querySelectorAll("[data-what]")) tab.ariaPressed = String(tab.dataset.what === what);
    this.#find("#admin-query").value = "";
    this.#rows = [];
    this.#list.show([], () => []);
    setText(this.#find("#admin-none"), "");
    this.#find("#admin-more").hidden = true; // until there is something to be behind
    this.#load();
  }

  // Loads the first page, or the one behind an id.
  async #load(behind) {
    clearTimeout(this.#timer);
    const run = ++this.#run;
    const what = this.#what;
    const position = what === "audit" ? { before: behind ?? 0 } : { after: behind ?? 0 };
    const query = this.#find("#admin-query").value.trim();
    let rows = [];
    let mistake = "";
    try {
      rows = await this.#session.asUser((token) => api.adminList(token, what, { ...position, query, limit: page }));
    } catch (error) {
      mistake = error.message;
    }
    if (run !== this.#run) return;
    setText(this.#find(".error"), mistake);
    if (mistake) return;
    this.#rows = behind ? this.#rows.concat(rows) : rows;
    this.#find("#admin-more").hidden = rows.length < page;
    this.#draw();
  }

  #draw() {
    const make = { users: this.#user, rooms: this.#room, audit: entry }[this.#what].bind(this);
    this.#list.show([this.#what, this.#rows], () => this.#rows.map(make));
    setText(this.#find("#admin-none"), this.#rows.length ? "" : "Nothing was found.");
    keepFocus(this.#dialog);
  }

  #user(user) {
    const { user_name: name, role, disabled, created_at } = user;
    const own = name.toLowerCase() === this.#session.userName.toLowerCase();
    const notes = [role === "ADMIN" && "administrator", disabled && "disabled", own && "you"].filter(Boolean).join(", ");
    const change = (text, to, question) => this.#action(text, name, { ...question, title: `${text}: ${name}?` }, async () => {
      const changed = await this.#call(api.changeUser, name, to);
      this.#rows = this.#rows.map((row) => (row.user_name === name ? { ...row, ...changed } : row));
    });
    const out = "Their log-ins end.";
    return line(
      [el("b", {}, name), notes],
      since(created_at),
      role === "ADMIN"
        ? change("Make user", { role: "USER" }, { text: `They can no longer see to this server. ${out}`, danger: true })
        : change("Make admin", { role: "ADMIN" }, { text: `They may do all that you may: see to accounts, and delete any room. ${out}` }),
      disabled
        ? change("Enable", { disabled: false }, { text: "They can log in again." })
        : change("Disable", { disabled: true }, { text: `They cannot log in until you enable them. ${out}`, danger: true }),
      this.#action("New password", name, {
        title: `New password for ${name}`,
        text: `Tell it to them another way. ${out}`,
        fields: [{ name: "password", label: "Password", hint: "At least 8 characters" }],
      }, async ({ password }) => {
        const mistake = passwordMistake(password);
        if (mistake) throw new Error(mistake);
        await this.#call(api.resetPassword, name, password);
      }),
      this.#action("Log out", name, { title: `Log ${name} out?`, text: "Everywhere. They can log in again." }, () =>
        this.#call(api.endSessions, name),
      ),
    );
  }

  #room({ short_code: code, room_name: name, owner, members, last_seq, created_at }) {
    const counted = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
    return line(
      [el("b", { dir: "auto" }, name), code],
      `${owner}, ${counted(members, "member")}, ${counted(last_seq, "message")}, ${since(created_at)}`,
      this.#action("Delete", name, deleteQuestion(name), async () => {
        await this.#call(api.deleteRoom, code);
        this.#rows = this.#rows.filter((row) => row.short_code !== code);
      }),
    );
  }

  // A button that asks first, and shows the list anew when it is done.
  #action(text, name, question, submit) {
    const act = async () => {
      if (await this.#ask.ask({ confirm: text, ...question }, submit)) this.#draw();
    };
    return button(text, act, `${text}: ${name}`);
  }

  #call(call, ...parameters) {
    return this.#session.asUser((token) => call(token, ...parameters));
  }
}

const since = (at) => `since ${shortTimeText(Date.parse(at))}`;

function line([title, notes], more, ...actions) {
  const quieter = (text) => el("span", { className: "quieter" }, text);
  return el("li", {}, el("div", { className: "what" }, title, " ", quieter(notes), el("br"), quieter(more)), ...actions);
}

const done = {
  user_created: "created the account",
  user_role: "changed the role of",
  user_disabled: "disabled",
  user_enabled: "enabled",
  user_password: "changed the password of",
  user_sessions_ended: "logged out",
  user_deleted: "deleted the account",
  room_deleted: "deleted the room",
  room_renamed: "renamed the room",
  room_password: "changed the password of the room",
  room_owner: "handed over the room",
  member_removed: "removed",
  member_left: "left:",
  member_banned: "banned",
  member_unbanned: "unbanned",
};

function entry({ actor, action, target, detail, created_at }) {
  const who = actor || "A command on the server";
  return line([el("b", {}, who), `${done[action] ?? action} ${target}${detail && `, ${detail}`}`], shortTimeText(Date.parse(created_at)));
}
