import { setText } from "./dom.js";
import { passwordMistake } from "./signin.js";

/**
 * The dialog of the user's own account. `onToken(token)` is called when the password is another one, `onDeleted()` when
 * the account is deleted, and `onAdmin()` when an ADMIN wants to see to the server. `signal` ends it.
 */
export class AccountDialog {
  #dialog;
  #session;
  #ask;
  #handlers;

  constructor(dialog, session, ask, handlers, signal) {
    this.#dialog = dialog;
    this.#session = session;
    this.#ask = ask;
    this.#handlers = handlers;
    const click = (id, listener) => (dialog.querySelector(id).onclick = listener);
    click("#change-password", () => this.#changePassword());
    click("#delete-account", () => this.#delete());
    click("#administration", () => {
      dialog.close();
      handlers.onAdmin();
    });
    click("[value=cancel]", () => dialog.close());
    session.addEventListener("change", () => this.#draw(), { signal }); // whether one is an ADMIN may be heard of while it is open
  }

  open() {
    this.#draw();
    this.#dialog.showModal();
  }

  #draw() {
    const { userName, admin } = this.#session;
    setText(this.#dialog.querySelector("h2"), userName);
    setText(this.#dialog.querySelector(".quieter"), admin ? "You are an administrator of this server." : "");
    this.#dialog.querySelector("#administration").hidden = !admin;
  }

  close() {
    this.#dialog.close();
  }

  // For a program that keeps passwords.
  get #userName() {
    return { name: "user_name", label: "User name", value: this.#session.userName, autocomplete: "username", hidden: true };
  }

  async #changePassword() {
    const type = "password";
    let token;
    const changed = await this.#ask.ask(
      {
        title: "Change your password",
        text: "You stay logged in here. Everywhere else you are logged out.",
        confirm: "Change password",
        fields: [
          this.#userName,
          { name: "password", label: "Password now", type, autocomplete: "current-password" },
          { name: "new_password", label: "New password", hint: "At least 8 characters", type, autocomplete: "new-password" },
        ],
      },
      async ({ password, new_password }) => {
        if (!password) throw new Error("Enter the password that you have now.");
        const mistake = passwordMistake(new_password);
        if (mistake) throw new Error(mistake);
        token = await this.#session.changePassword(password, new_password);
      },
    );
    if (changed) this.#handlers.onToken(token);
  }

  async #delete() {
    const deleted = await this.#ask.ask(
      {
        title: "Delete your account?",
        text:
          "Your name is free for others then. What you wrote stays, under a name like “deleted 7”. Rooms that you own pass to " +
          "another member; those where you are alone are deleted. This is for good.",
        confirm: "Delete account",
        danger: true,
        fields: [this.#userName, { name: "password", label: "Password", type: "password", autocomplete: "current-password" }],
      },
      async ({ password }) => {
        if (!password) throw new Error("Enter your password.");
        await this.#session.deleteAccount(password);
      },
    );
    if (deleted) this.#handlers.onDeleted();
  }
}
