import { claimStep, codeInAddress, codeOf, setAddress, stepOfAnother } from "./address.js";
import { Composer } from "./composer.js";
import { dayOf } from "./dates.js";
import { Ask, FormDialog, copyField, deleteQuestion } from "./dialogs.js";
import { Rows, el, oncePerFrame, setText } from "./dom.js";
import { Session } from "./session.js";
import { RoomSettings } from "./settings.js";
import { Sidebar } from "./sidebar.js";
import { Timeline } from "./timeline.js";

const bannerAfter = 600; // ms: a session that is back by then was not away for anybody
const firstBannerAfter = 2_000; // ms, for a session that is opened for the first time
const mostNames = 200; // of those present, in the list
const mostAnnounced = 3; // messages read out of those that arrive at once; of more, only how many
const find = (id) => document.getElementById(id);
const wide = matchMedia("(min-width: 720px)");
const touch = matchMedia("(pointer: coarse)");

/**
 * The screen of a user who is logged in. `onLeave(reason)` is called when the user is not any more, `onToken(token)` when
 * it has another token, for which there is to be another screen.
 */
export class Chat {
  #session;
  #onLeave;
  #onToken;
  #sidebar = new Sidebar(find("room-list"));
  #presentRows = new Rows(find("present-list"));
  #timeline;
  #composer;
  #dialogs = {};
  #listening = new AbortController();
  #render = oncePerFrame(() => this.#draw());
  #bannerTimer = 0;
  #wasOpen = new WeakSet(); // rooms that have had a session
  #invited = null; // the room that the invitation is to
  #loggingOut = false; // a question is asked about that
  #routes = 0; // tells the last way to where the address says from those that were given up
  #day = dayOf(Date.now());
  #clock = setInterval(() => this.#tick(), 30_000);

  constructor(account, store, onLeave, onToken) {
    this.#session = new Session(account, store);
    this.#onLeave = onLeave;
    this.#onToken = onToken;
    for (const name of ["create", "join"]) {
      this.#dialogs[name] = new FormDialog(find(`${name}-dialog`));
    }
    const ask = new Ask(find("ask-dialog"));
    const { signal } = this.#listening;
    const settings = new RoomSettings(find("settings-dialog"), this.#session, ask, (room) => this.#roomLeft(room), signal);
    Object.assign(this.#dialogs, { ask, settings });
    this.#timeline = new Timeline(find("timeline"), find("messages"), {
      onEdit: (message) => {
        this.#session.current.discard(message);
        this.#composer.edit(message.body);
      },
      onDiscard: (message) => {
        this.#session.current.discard(message);
        this.#composer.focus();
      },
      onView: () => this.#viewChanged(),
    }, signal);
    this.#composer = new Composer(find("composer"), this.#session.store, {
      onSend: (body) => this.#session.current.send(body),
      onTyping: () => this.#session.current.sendTyping(),
    });
    setText(find("me"), account.userName);
    this.#listen();
    this.#draw(); // nothing is left of who was here before
    find("chat").hidden = false;
    this.#start();
  }

  async #start() {
    await this.#session.start();
    if (!this.#session.loaded) {
      // The server is away: the list is tried again by itself, and this goes on once it is there.
      await new Promise((resolve) => {
        const check = () => this.#session.loaded && resolve();
        this.#session.addEventListener("change", check, { signal: this.#listening.signal });
      });
    }
    const { latest } = this.#session;
    if (!codeInAddress() && latest && wide.matches) setAddress(latest.code);
    this.#route();
  }

  /** Takes the screen down. */
  close() {
    this.#listening.abort();
    clearInterval(this.#clock);
    clearTimeout(this.#bannerTimer);
    this.#session.stop();
    this.#session.select(null);
    for (const dialog of Object.values(this.#dialogs)) dialog.close();
    find("invite-dialog").close();
    this.#timeline.show(null);
    this.#composer.show(null);
    this.#sidebar.update([], null);
    setText(find("announcer"), "");
    setText(find("banner"), "");
    notify("");
    find("chat").hidden = true;
  }

  #listen() {
    const { signal } = this.#listening;
    const on = (target, type, listener) => target.addEventListener(type, listener, { signal });
    const click = (id, listener) => on(find(id), "click", listener);

    on(this.#session, "change", this.#render);
    on(this.#session, "room-added", ({ room }) => {
      on(room, "arrived", ({ messages }) => this.#arrived(room, messages));
    });
    on(this.#session, "room-gone", (event) => {
      notify(goneText(event), [...event.unsent, event.draft].filter(Boolean).join("\n\n"));
      this.#closeDialogs(event.room);
      this.#roomLeft(event.room);
    });
    on(this.#session, "logged-out", ({ error }) => this.#onLeave(loggedOutText(error)));

    on(window, "hashchange", () => this.#route());
    on(window, "online", () => this.#comeBack());
    on(window, "offline", () => this.#session.refresh()); // a server on this machine is still there
    on(window, "resize", () => this.#composer.fit());
    on(window, "pageshow", (event) => event.persisted && this.#comeBack());
    on(document, "visibilitychange", () => {
      if (document.hidden) return;
      this.#tick();
      this.#comeBack();
      this.#timeline.update();
    });
    on(window, "storage", () => {
      this.#session.takeOver();
      this.#render();
    });

    for (const id of ["create-room", "create-room-empty"]) click(id, () => this.#createRoom());
    for (const id of ["join-room", "join-room-empty"]) click(id, () => this.#joinRoom("", ""));
    for (const id of ["invite", "invite-start"]) click(id, () => this.#invite());
    click("delete-room", () => this.#deleteRoom());
    click("settings", () => this.#dialogs.settings.open(this.#session.current));
    click("me", () => this.#openAccount());
    click("log-out", () => this.#logOut());
    click("jump", () => {
      this.#session.current.showEnd();
      this.#timeline.update();
      this.#composer.focus();
    });
    click("show-present", () => this.#showPresent(find("present").dataset.open !== "true"));
    click("hide-present", () => {
      this.#showPresent(false);
      find("show-present").focus();
    });
    on(find("stage"), "pointerdown", () => this.#showPresent(false));
    on(find("present"), "keydown", (event) => {
      if (event.key !== "Escape" || find("present").dataset.open !== "true") return;
      this.#showPresent(false);
      find("show-present").focus();
    });
    click("copy-invite", async () => {
      const copied = await copyField(find("invite-link"));
      setText(find("invite-copied"), copied ? "Copied." : "Press Ctrl+C (or ⌘C) to copy the link.");
    });
    click("close-invite", () => find("invite-dialog").close());
    click("copy-unsent", async () => {
      const copied = await copyField(find("unsent"));
      setText(find("copy-unsent"), copied ? "Copied" : "Press Ctrl+C (or ⌘C)");
    });
    click("close-notice", () => notify(""));
  }

  #comeBack() {
    this.#session.takeOver(); // a page that was put away is not told of it
    this.#session.hurry();
    this.#render();
  }

  #tick() {
    const today = dayOf(Date.now());
    if (today === this.#day) return;
    this.#day = today;
    this.#timeline.clear();
    this.#timeline.update();
  }

  // Goes where the address says: to a room, to an invitation, or to the list of rooms.
  async #route() {
    if (!this.#session.loaded) return;
    const code = codeInAddress();
    const route = ++this.#routes;
    const room = code && this.#session.find(code);
    if (room || !code) {
      if (find("join-dialog").dataset.invited === "true") this.#dialogs.join.close(); // not one that was just opened by hand
      if (room) claimStep(this.#session.userName);
      this.#open(room || null);
      return;
    }
    this.#open(null);
    const left = () => route !== this.#routes || codeInAddress() !== code || this.#listening.signal.aborted;
    // Nobody is to become a member again, or a member of somebody else's room, by the Back key or by loading the page anew.
    const { userName, store } = this.#session;
    const ended = store.ended.some((other) => other.toUpperCase() === code);
    let mistake = ended ? "You are not in this room any more." : "";
    let ask = ended || stepOfAnother(userName);
    if (!ask) {
      try {
        // A room without a password is entered at once; a member too, of a room that the list does not have yet.
        await this.#session.join(code, "");
      } catch (error) {
        ask = true;
        if (error.code !== "ROOM_ACCESS_DENIED") mistake = error.message;
      }
      if (left()) return;
    }
    if (ask && !(await this.#joinRoom(code, mistake)) && !left()) {
      setAddress("");
      this.#focusRooms();
    }
    if (!left()) this.#route();
  }

  #open(room) {
    const before = this.#session.current;
    this.#session.select(room);
    if (room !== before) {
      if (before) this.#closeDialogs(before);
      this.#showPresent(false);
      setText(find("announcer"), "");
    }
    this.#draw();
    if (room && room !== before && !touch.matches) this.#composer.focus();
  }

  async #createRoom() {
    let code;
    const created = await this.#dialogs.create.open({}, async ({ room_name, room_password }) => {
      if (!room_name.trim()) throw new Error("Give the room a name.");
      code = await this.#session.create(room_name.trim(), room_password);
    });
    if (created) location.hash = code;
  }

  // Asks for a room's code and password, and joins it. Resolves to false when that was cancelled.
  async #joinRoom(code, mistake) {
    const invited = Boolean(code);
    find("join-dialog").dataset.invited = String(invited);
    setText(find("join-title"), invited ? `Join room ${code}` : "Join a room");
    let room;
    const joined = await this.#dialogs.join.open(
      { room_code: code },
      async ({ room_code, room_password }) => {
        const given = codeOf(room_code);
        if (!given) throw new Error("Enter the room's code, or its invitation link.");
        try {
          room = await this.#session.join(given, room_password);
        } catch (error) {
          if (error.code !== "ROOM_ACCESS_DENIED") throw error;
          throw new Error("There is no room with this code, the password is not right, or you may not enter it. Check both and try again.");
        }
      },
      mistake,
    );
    if (joined && !invited) location.hash = room.code;
    return joined;
  }

  #invite() {
    const { code, name } = (this.#invited = this.#session.current);
    setText(find("invite-title"), `Invite to ${name}`);
    setText(find("invite-copied"), "");
    find("invite-link").value = new URL(`/#${code}`, location.href).href;
    find("invite-dialog").showModal();
    find("copy-invite").focus();
  }

  async #deleteRoom() {
    const room = this.#session.current;
    await this.#dialogs.ask.ask(deleteQuestion(room.name, room), async () => {
      await this.#session.delete(room);
      this.#roomLeft(room);
    });
  }

  #openAccount() {
    const handlers = {
      onToken: (token) => {
        this.#onToken(token);
        notify("Your password is changed. Everywhere else you are logged out.");
      },
      onDeleted: () => {
        this.#session.store.removeAll();
        setAddress("");
        this.#onLeave("Your account is deleted.");
      },
      onAdmin: () => this.#openLoaded("admin", ({ AdminDialog }, dialog) => new AdminDialog(dialog, this.#session, this.#dialogs.ask)),
    };
    this.#openLoaded(
      "account",
      ({ AccountDialog }, dialog) => new AccountDialog(dialog, this.#session, this.#dialogs.ask, handlers, this.#listening.signal),
    );
  }

  // Opens a dialog that is seldom asked for: only then it is loaded.
  async #openLoaded(name, make) {
    const { signal } = this.#listening;
    try {
      const module = await import(`./${name}.js`);
      if (signal.aborted) return; // logged out meanwhile
      this.#dialogs[name] ??= make(module, find(`${name}-dialog`));
      this.#dialogs[name].open();
    } catch {
      if (!signal.aborted) notify("The server does not answer. Try again in a moment.");
    }
  }

  // No dialog of a room stays when it is not the one that is shown.
  #closeDialogs(room) {
    this.#dialogs.ask.closeOf(room);
    this.#dialogs.settings.close(room);
    if (this.#invited === room) find("invite-dialog").close();
  }

  #roomLeft(room) {
    if (this.#session.current !== room) return;
    setAddress("");
    this.#route();
    this.#focusRooms();
  }

  // Where the keyboard goes on when what had it is gone.
  #focusRooms() {
    (find("room-list").querySelector("a") ?? find("create-room")).focus();
  }

  async #logOut() {
    const { pending } = this.#session;
    if (pending) {
      this.#loggingOut = true;
      const question = { title: "Log out?", text: pendingText(pending), confirm: "Log out", danger: true };
      const confirmed = await this.#dialogs.ask.ask(question, async () => {});
      this.#loggingOut = false;
      if (!confirmed) return;
    }
    this.#session.store.removeWriting();
    setAddress("");
    this.#onLeave("");
  }

  #arrived(room, messages) {
    if (room !== this.#session.current) return;
    if (document.hidden || !this.#timeline.atEnd) room.markLine(messages);
    announce(messages);
  }

  #showPresent(open) {
    find("present").dataset.open = String(open);
    find("show-present").ariaExpanded = String(open);
    if (open) find("hide-present").focus();
  }

  #draw() {
    if (this.#listening.signal.aborted) return;
    const { current, sorted, loaded, unread } = this.#session;
    find("chat").dataset.view = current ? "room" : "rooms";
    find("no-room").hidden = Boolean(current) || !loaded;
    find("room").hidden = !current;
    find("present").hidden = !current;
    this.#sidebar.update(sorted, current);
    find("no-rooms").hidden = !loaded || sorted.length > 0;
    if (current) this.#drawRoom(current);
    this.#timeline.show(current);
    this.#timeline.update();
    this.#composer.show(current);
    this.#updateBanner();
    if (this.#loggingOut) this.#dialogs.ask.say(pendingText(this.#session.pending));
    document.title = `${unread ? `(${unread}) ` : ""}${current ? `${current.name} – ` : ""}GRPCChatter`;
  }

  #drawRoom(room) {
    setText(find("room-name"), room.name);
    setText(find("room-code"), room.code);
    find("delete-room").hidden = !room.owned && !this.#session.admin;
    find("timeline").ariaLabel = `Messages in ${room.name}`;
    find("start").dataset.state = room.history.loaded && room.history.stretch.begins ? "beginning" : "loading";
    const removed = room.history.stretch.oldest > 1;
    setText(find("start-title"), removed ? "Older messages were removed" : `This is the beginning of ${room.name}`);
    setText(find("typing"), typingText(room.typing));
    this.#drawPresent(room);
  }

  #drawPresent({ present }) {
    const count = present?.length ?? 0;
    setText(find("present-count"), present ? String(count) : "");
    find("show-present").ariaLabel = present ? `Who is here: ${count}` : "Who is here";
    const names = (present ?? []).slice(0, mostNames);
    this.#presentRows.show([names, count], () => {
      const own = this.#session.userName.toLowerCase();
      const quieter = (text) => el("span", { className: "quieter" }, text);
      const rows = names.map((name) => el("li", {}, name, name.toLowerCase() === own ? quieter(" (you)") : ""));
      if (count > names.length) rows.push(el("li", { className: "quieter" }, `and ${count - names.length} more`));
      return rows;
    });
  }

  #viewChanged() {
    const room = this.#session.current;
    const { scrollHeight, clientHeight, scrollTop } = find("timeline");
    find("start").inert = scrollTop > find("start").clientHeight; // the Tab key is not to scroll there from afar
    const far = !room?.history.complete || scrollHeight - clientHeight - scrollTop > 120;
    const away = room?.history.loaded && !this.#timeline.atEnd && far;
    find("jump").hidden = !away;
    if (!away) return;
    const { unread } = room;
    find("jump").dataset.unread = unread;
    setText(find("jump-text"), unread ? `${unread} new ${unread === 1 ? "message" : "messages"}` : "Newest messages");
  }

  #updateBanner() {
    const { current, unreachable } = this.#session;
    if (current?.connection === "open") this.#wasOpen.add(current);
    const away = unreachable || (current && current.connection !== "open");
    const banner = find("banner");
    if (!away) {
      clearTimeout(this.#bannerTimer);
      this.#bannerTimer = 0;
      setText(banner, "");
    } else if (banner.textContent) {
      setText(banner, awayText(current));
    } else if (!this.#bannerTimer) {
      const wait = current && !this.#wasOpen.has(current) && navigator.onLine ? firstBannerAfter : bannerAfter;
      this.#bannerTimer = setTimeout(() => setText(banner, awayText(this.#session.current)), wait);
    }
  }
}

// Shows a sentence, and a text to copy, which the next notice leaves there.
function notify(text, unsent = "") {
  const kept = find("unsent").value;
  if (text && kept) {
    text = `${find("notice-text").textContent} ${text}`;
    unsent = [kept, unsent].filter(Boolean).join("\n\n");
  }
  setText(find("notice-text"), text);
  find("unsent").value = unsent;
  find("unsent").hidden = find("copy-unsent").hidden = !unsent;
  setText(find("copy-unsent"), unsent && "Copy");
  find("notice").hidden = !text;
}

function announce(messages) {
  const lines =
    messages.length > mostAnnounced
      ? [`${messages.length} new messages`]
      : messages.map(({ userName, body }) => `${userName}: ${body}`);
  const announcer = find("announcer");
  announcer.append(...lines.map((line) => el("p", {}, line)));
  while (announcer.childElementCount > 20) announcer.firstChild.remove();
}

function typingText(names) {
  switch (names.length) {
    case 0:
      return "";
    case 1:
      return `${names[0]} is typing…`;
    case 2:
      return `${names[0]} and ${names[1]} are typing…`;
    default:
      return "Several people are typing…";
  }
}

function awayText(room) {
  if (!navigator.onLine) return "You are offline. What you write is sent when you are back.";
  switch (room?.connectionReason) {
    case "RATE_LIMITED":
      return "You write faster than the server allows. The rest is sent in a moment.";
    case "STORAGE_FULL":
      return "The server's disk is full: tell who runs it. What you write is sent when there is room.";
    case "DATABASE_UNAVAILABLE":
      return "The server's database is away. What you write is sent when it is back.";
    default:
      return "The connection is away. What you write is sent when it is back.";
  }
}

function pendingText(n) {
  if (!n) return "Everything has been sent meanwhile.";
  return `${n === 1 ? "One message has" : `${n} messages have`} not been sent yet, and would be lost.`;
}

function goneText({ room: { name }, error, unsent, draft }) {
  let text = `The room “${name}” is gone: it was deleted, or you are no longer a member of it.`;
  if (error?.code === "ROOM_DELETED") text = `The room “${name}” was deleted, and all its messages with it.`;
  else if (error?.message) text = `“${name}”: ${error.message}`;
  const n = unsent.length;
  if (n) return `${text} ${n === 1 ? "One message was" : `${n} messages were`} not sent.`;
  return draft ? `${text} What you were writing was not sent.` : text;
}

function loggedOutText(error) {
  if (error.code === "ACCOUNT_DISABLED") return error.message;
  if (error.code === "TOKEN_EXPIRED") {
    return "You were logged out, as your log-in has run out. Log in again; what you were writing is still there.";
  }
  return (
    "You were logged out: the account's password or role was changed, or an administrator has ended its log-ins. " +
    "Log in again; what you were writing is still there."
  );
}
