import { dayOf } from "./dates.js";

/**
 * A message as the page has it.
 *
 * `id` is the sender's client_message_id. `seq` is null, and `state` "pending", until the server has stored it;
 * then it is "sent". "rejected" is final, with the server's reason in `reason`.
 */
export class Message {
  constructor({ id, seq, userName, body, at, state, reason = "" }) {
    this.id = id;
    this.seq = seq;
    this.userName = userName;
    this.body = body;
    this.at = at;
    this.day = dayOf(at);
    this.state = state;
    this.reason = reason;
  }

  /** Makes a message that is still to be sent. */
  static written(userName, body) {
    return new Message({ id: newId(), seq: null, userName, body, at: Date.now(), state: "pending" });
  }

  /** Makes a message from a page of history. */
  static fromHistory(m) {
    return new Message({
      id: m.client_message_id,
      seq: m.seq,
      userName: m.user_name,
      body: m.body,
      at: Date.parse(m.sent_at),
      state: "sent",
    });
  }

  /** Makes a message from an event. */
  static fromEvent(e) {
    return new Message({
      id: e.clientMessageId,
      seq: Number(e.seq),
      userName: e.userName,
      body: e.body,
      at: Date.parse(e.sentAt),
      state: "sent",
    });
  }

  /** Takes over what the server made of it. */
  stored(event) {
    this.seq = Number(event.seq);
    this.userName = event.userName; // as it was registered
    this.at = Date.parse(event.sentAt);
    this.day = dayOf(this.at);
    this.state = "sent";
  }
}

// Not crypto.randomUUID: browsers have that only on https, and a chat in a house is often on http.
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
