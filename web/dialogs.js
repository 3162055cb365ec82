import { el, setText } from "./dom.js";

/**
 * A <dialog> with a form: it stays open, with the reason, until what was asked for has been done or it is
 * cancelled. The form has a `.error`, and buttons of which `[value=cancel]` cancels.
 */
export class FormDialog {
  #dialog;
  #form;
  #error;
  #submit = null;
  #resolve = null;

  constructor(dialog) {
    this.#dialog = dialog;
    this.#form = dialog.querySelector("form");
    this.#error = dialog.querySelector(".error");
    this.#form.onsubmit = (event) => {
      event.preventDefault();
      this.#send();
    };
    this.#form.querySelector("[value=cancel]").onclick = () => dialog.close();
    dialog.onclose = () => {
      if (dialog.open) return; // the event comes late, and the dialog has been opened for something else
      this.#form.reset(); // no password is to stay on the page
      this.#resolve?.(false);
    };
  }

  /**
   * Opens the dialog with values for its fields. `submit(values)` does what it is for, and rejects with an Error
   * whose message the person is to read. Resolves to true when that is done, to false when it was cancelled.
   */
  open(values, submit, error = "") {
    this.close();
    this.#form.reset();
    this.#form.ariaBusy = null; // with what it was open for before
    for (const [name, value] of Object.entries(values)) this.#form.elements[name].value = value;
    setText(this.#error, error);
    this.#submit = submit;
    this.#dialog.showModal();
    return new Promise((resolve) => (this.#resolve = resolve));
  }

  /** Closes the dialog, if it is open, as if it was cancelled. */
  close() {
    this.#resolve?.(false);
    this.#resolve = null;
    this.#dialog.close();
  }

  async #send() {
    if (this.#form.ariaBusy) return;
    const resolve = this.#resolve;
    const same = () => resolve === this.#resolve; // it may have been opened for something else meanwhile
    this.#form.ariaBusy = "true";
    setText(this.#error, "");
    try {
      await this.#submit(Object.fromEntries(new FormData(this.#form)));
    } catch (error) {
      if (same()) setText(this.#error, error.message);
      return;
    } finally {
      if (same()) this.#form.ariaBusy = null;
    }
    resolve(true);
    if (same()) this.close();
  }
}

/** A FormDialog for whatever is to be asked: its form has a `#ask-text`, an empty `#ask-fields` and a `#ask-confirm`. */
export class Ask extends FormDialog {
  #part;
  #room = null;

  constructor(dialog) {
    super(dialog);
    this.#part = (name) => dialog.querySelector(`#ask-${name}`);
  }

  /**
   * Asks a question: `title`, `text`, the `confirm` button's text, whether there is `danger`, and `fields`, each with
   * `name`, `label`, and what else an <input> may have, and the `room` that it is about, if it is. `submit` and the result
   * are those of FormDialog.open.
   */
  ask({ title, text = "", confirm, danger = false, fields = [], room = null }, submit) {
    this.close();
    this.#room = room;
    setText(this.#part("title"), title);
    setText(this.#part("text"), text);
    setText(this.#part("confirm"), confirm);
    this.#part("confirm").className = danger ? "danger" : "main";
    this.#part("fields").replaceChildren(
      ...fields.flatMap(({ label, hint = "", value, ...input }) => [
        el("label", { htmlFor: `ask-${input.name}`, hidden: Boolean(input.hidden) }, label, " ", el("span", { className: "quieter" }, hint)),
        el("input", { id: `ask-${input.name}`, autocomplete: "off", autocapitalize: "none", spellcheck: false, ...input }),
      ]),
    );
    return this.open(Object.fromEntries(fields.map(({ name, value = "" }) => [name, value])), submit);
  }

  /** Closes the dialog if its question is about a room. */
  closeOf(room) {
    if (room === this.#room) this.close();
  }

  /** Makes the question's text another one. */
  say(text) {
    setText(this.#part("text"), text);
  }
}

/** Copies a field's text, also where the page has no access to the clipboard because it is not on https. */
export async function copyField(field) {
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
    return true;
  } catch {
    return document.execCommand("copy");
  }
}

/** What is asked before a room is deleted. */
export function deleteQuestion(name, room) {
  const text = "The room and all its messages are deleted, for everybody and for good.";
  return { title: `Delete “${name}”?`, text, confirm: "Delete room", danger: true, room };
}
