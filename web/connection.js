const firstWait = 500; // ms, doubled with every try
const longestWait = 10_000;
const patience = 10_000; // ms for a session to open
const settled = 10_000; // ms that a session lasts before the waits begin anew
// The reasons of close codes, where none is told.
const reasons = { 1009: "BODY_TOO_LARGE", 4403: "ROOM_ACCESS_DENIED", 4404: "ROOM_DELETED", 4409: "HISTORY_RESTORED" };
const nothingToComeBackTo = ["ROOM_ACCESS_DENIED", "ROOM_DELETED", "HISTORY_RESTORED", "ROOM_NOT_FOUND", "ACCOUNT_DISABLED"];
const atLeast = { RATE_LIMITED: 2_000, STORAGE_FULL: 5_000 };

/**
 * The session in one room, over a WebSocket that is opened anew whenever it ends, after a wait that grows.
 *
 * It is driven by its handlers:
 * - `token(refused)` resolves to a room token, a new one when the last was refused, or rejects with an ApiError;
 * - `cursor()` is the last seq received in order: the session resumes after it;
 * - `received(events)` handles a frame;
 * - `changed()` tells that `state` is another; at "open" it is time to send what is not acknowledged;
 * - `ended(error)` tells that there is nothing to come back to, as the room, the membership or the log-in is gone:
 *   `error` is an ApiError, or has its `code`, and mostly its `message`.
 */
export class Connection {
  /** "stopped", "connecting", "open" or "waiting" (for the next try). */
  state = "stopped";
  /** The server's code for the last end, or "". */
  reason = "";

  #handlers;
  #socket = null;
  #timer = 0;
  #settling = 0;
  #tries = 0;
  #run = 0; // tells a try from those that were given up
  #refused = false;

  constructor(handlers) {
    this.#handlers = handlers;
  }

  start() {
    if (this.state === "stopped") this.#connect();
  }

  stop() {
    this.#drop();
    this.#become("stopped");
  }

  /** Tries now rather than after the wait. */
  hurry() {
    if (this.state === "waiting") this.#connect();
  }

  /** Gives up a session that seems dead, and resumes it. */
  resume() {
    if (this.state === "open") this.#wait("");
  }

  /** Sends a frame if the session is open. */
  send(frame) {
    if (this.state === "open") this.#socket.send(JSON.stringify(frame));
  }

  async #connect() {
    this.#drop();
    const run = this.#run;
    this.#become("connecting");
    let token;
    try {
      token = await this.#handlers.token(this.#refused);
    } catch (error) {
      if (run !== this.#run) return;
      if (error.tokenRefused || nothingToComeBackTo.includes(error.code)) this.#end(error);
      else this.#wait(error.code);
      return;
    }
    if (run !== this.#run) return;
    this.#refused = false;

    const url = new URL("/chat", location.href);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.#socket = new WebSocket(url));
    this.#timer = setTimeout(() => this.#wait(""), patience);
    socket.onopen = () => {
      socket.send(JSON.stringify({ token, start: { afterSeq: String(this.#handlers.cursor()) } }));
    };
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => {
      const [, name, sentence] = reason.match(/^(\w+): (.*)/) ?? [];
      this.#closed(code, name ?? reasons[code] ?? "", sentence);
    };
  }

  #receive(data) {
    const opened = this.state !== "open";
    if (opened) {
      clearTimeout(this.#timer);
      this.#settling = setTimeout(() => (this.#tries = 0), settled);
    }
    this.#handlers.received(JSON.parse(data).events ?? []);
    if (opened) {
      this.reason = "";
      this.#become("open"); // after the events: what they acknowledge is not to be sent again
    }
  }

  #closed(code, reason, message) {
    if (nothingToComeBackTo.includes(reason)) {
      this.#end({ code: reason, message });
      return;
    }
    this.#refused = code === 4401;
    this.#wait(reason);
  }

  #end(error) {
    this.stop();
    this.#handlers.ended(error);
  }

  #wait(reason) {
    this.#drop();
    this.reason = reason;
    const wait = Math.min(firstWait * 2 ** this.#tries++, longestWait);
    const jittered = wait * (0.6 + 0.4 * Math.random()); // a thousand pages do not come back in one moment
    this.#timer = setTimeout(() => this.#connect(), Math.max(jittered, atLeast[reason] ?? 0));
    this.#become("waiting");
  }

  #drop() {
    this.#run++;
    clearTimeout(this.#timer);
    clearTimeout(this.#settling);
    const socket = this.#socket;
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    // Browsers complain about a socket that is closed before it is open.
    if (socket.readyState === WebSocket.CONNECTING) socket.onopen = () => socket.close();
    else socket.close();
    this.#socket = null;
  }

  #become(state) {
    if (this.state === state) return;
    this.state = state;
    this.#handlers.changed();
  }
}
