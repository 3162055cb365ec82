const tallest = 0.4; // of the window's height

/** The form a message is written in. `onSend(body)` and `onTyping()` are called for the room that is shown. */
export class Composer {
  #form;
  #input;
  #drafts;
  #room = null;
  #handlers;

  /** `drafts` is the member's store. */
  constructor(form, drafts, handlers) {
    this.#form = form;
    this.#input = form.elements.body;
    this.#drafts = drafts;
    this.#handlers = handlers;
    form.onsubmit = (event) => {
      event.preventDefault();
      this.#send();
    };
    this.#input.oninput = () => this.#written();
    this.#input.onkeydown = (event) => this.#key(event);
  }

  /** Shows a room's draft. */
  show(room) {
    this.#input.placeholder = room ? `Message ${room.name}` : ""; // the name can become another one
    if (room === this.#room) return;
    this.#room = room;
    this.#input.value = room ? this.#drafts.draft(room.code) : "";
    this.fit();
  }

  focus() {
    this.#input.focus({ preventScroll: true });
  }

  /** Puts a text in front of the draft. */
  edit(text) {
    const draft = this.#input.value;
    this.#input.value = draft ? `${text}\n${draft}` : text;
    this.#written();
    this.focus();
  }

  #key(event) {
    // While an input method composes, Enter takes its proposal; Safari tells that by the key code alone.
    const composing = event.isComposing || event.keyCode === 229;
    if (event.key !== "Enter" || event.shiftKey || composing) return;
    event.preventDefault();
    this.#send();
  }

  #send() {
    const body = this.#input.value.trimEnd();
    if (!this.#room || !body) return;
    this.#input.value = "";
    this.#drafts.setDraft(this.#room.code, "");
    this.fit();
    this.#handlers.onSend(body);
    this.focus();
  }

  #written() {
    this.#drafts.setDraft(this.#room.code, this.#input.value);
    this.fit();
    if (this.#input.value.trim()) this.#handlers.onTyping();
  }

  /** Makes the field as high as what is in it. */
  fit() {
    this.#input.style.height = "auto";
    this.#input.style.height = `${Math.min(this.#input.scrollHeight, innerHeight * tallest)}px`;
    this.#form.dataset.empty = String(!this.#input.value.trim());
  }
}
