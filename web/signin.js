import * as api from "./api.js";
import { setText } from "./dom.js";

/** What is wrong with a new password by the server's rules, or "". */
export function passwordMistake(password) {
  if (bytes(password) < 8) return "Choose a password of at least 8 characters.";
  return bytes(password) > 256 ? "Choose a password of at most 256 characters." : "";
}

const bytes = (text) => new TextEncoder().encode(text).length;

/** The screen to log in or register. `onAccount({ token, userName })` is called once that has worked. */
export class SignIn {
  /** The token of who was here until it was refused, or null: with it, what others guess keeps nobody out. */
  earlier = null;

  #screen;
  #form;
  #error;
  #registering = false;
  #tried = ""; // the name that a try to register may have taken
  #onAccount;

  constructor(screen, onAccount) {
    this.#screen = screen;
    this.#form = screen.querySelector("form");
    this.#error = screen.querySelector(".error");
    this.#onAccount = onAccount;
    this.#form.onsubmit = (event) => {
      event.preventDefault();
      this.#submit();
    };
    screen.querySelector("#switch-mode").onclick = () => {
      this.#mode(!this.#registering);
      this.#form.elements.user_name.focus();
    };
  }

  /** Shows the screen, with a sentence on why the person is here again, or else the code of the room invited to. */
  show(reason, code) {
    this.#screen.hidden = false;
    this.#tried = "";
    this.#form.reset();
    this.#mode(false);
    setText(this.#screen.querySelector("#sign-in-reason"), reason);
    this.invite(reason ? "" : code);
    this.#form.elements.user_name.focus();
  }

  hide() {
    this.#screen.hidden = true;
    this.#form.reset(); // no password is to stay on the page
  }

  /** Names the room that the person is invited to. */
  invite(code) {
    setText(this.#screen.querySelector("#invited"), code ? `To enter the room ${code}, log in or register.` : "");
  }

  #mode(registering) {
    this.#registering = registering;
    const text = (id, value) => setText(this.#screen.querySelector(id), value);
    text("#sign-in-title", registering ? "Register" : "Log in");
    text("#sign-in-submit", registering ? "Register" : "Log in");
    text("#switch-text", registering ? "You have an account?" : "New here?");
    text("#switch-mode", registering ? "Log in" : "Register");
    text("#name-hint", registering ? "2 to 32 letters, digits, _ - or ." : "");
    text("#password-hint", registering ? "At least 8 characters" : "");
    this.#form.elements.password.autocomplete = registering ? "new-password" : "current-password";
    setText(this.#error, "");
  }

  async #submit() {
    if (this.#form.ariaBusy) return;
    const userName = this.#form.elements.user_name.value.trim();
    const password = this.#form.elements.password.value;
    const [field, mistake] = this.#check(userName, password);
    setText(this.#error, mistake);
    if (mistake) {
      this.#form.elements[field].focus();
      return;
    }
    this.#form.ariaBusy = "true";
    try {
      this.#onAccount({ token: await this.#token(userName, password), userName });
    } catch (error) {
      setText(this.#error, error.message);
    } finally {
      this.#form.ariaBusy = null;
    }
  }

  // A name that is taken may be so by an earlier try, whose answer was lost: then the password is right.
  async #token(userName, password) {
    let taken = null;
    if (this.#registering) {
      try {
        await api.register(userName, password);
        this.#tried = userName;
      } catch (error) {
        if (error.code === "UNREACHABLE") this.#tried = userName;
        if (error.code !== "NAME_TAKEN" || userName !== this.#tried) throw error;
        taken = error;
      }
    }
    try {
      return await api.login(userName, password, this.earlier);
    } catch (error) {
      throw taken && error.code === "INVALID_CREDENTIALS" ? taken : error;
    }
  }

  // The server's rules, told without asking it. It has the last word.
  #check(userName, password) {
    if (!userName) return ["user_name", "Enter your user name."];
    if (!password) return ["password", "Enter your password."];
    if (!this.#registering) return ["", ""];
    if (!/^[A-Za-z0-9_.-]{2,32}$/.test(userName)) {
      return ["user_name", "A user name has 2 to 32 characters: letters from A to Z, digits, _ - and ."];
    }
    return ["password", passwordMistake(password)];
  }
}
