import { codeInAddress, setAddress } from "./address.js";
import { Chat } from "./chat.js";
import { SignIn } from "./signin.js";
import { Store, storageArea } from "./store.js";

/** Shows the chat to who is logged in, and the screen to log in to everybody else. */
class App {
  #store = new Store(storageArea("localStorage"), new Store(storageArea("sessionStorage")));
  #signIn = new SignIn(document.getElementById("sign-in"), (account) => this.#enter(account));
  #chat = null;
  #token = null; // of the account that is shown
  #userName = "";

  start() {
    this.#store.onAccountChange((account) => this.#changedElsewhere(account));
    addEventListener("hashchange", () => this.#signIn.invite(codeInAddress()));
    const { account } = this.#store;
    if (account) this.#open(account);
    else {
      this.#store.tab.removeAll("");
      this.#close("");
    }
  }

  #enter(account) {
    this.#store.account = account;
    this.#open(account);
  }

  #open(account) {
    this.#chat?.close();
    this.#signIn.hide();
    this.#token = account.token;
    this.#userName = account.userName;
    this.#chat = new Chat(account, this.#store, (reason) => this.#leave(reason), (token) => this.#enter({ ...account, token }));
  }

  #leave(reason) {
    // Another tab may have logged in anew in the meantime.
    const { account } = this.#store;
    if (account && account.token !== this.#token) {
      this.#open(account);
      return;
    }
    this.#store.account = null;
    this.#signIn.earlier = reason ? this.#token : null; // without one, it was the person who left
    this.#close(reason);
  }

  #close(reason) {
    this.#chat?.close();
    this.#chat = null;
    this.#token = null;
    document.title = "GRPCChatter";
    this.#signIn.show(reason, codeInAddress());
  }

  #changedElsewhere(account) {
    if ((account?.token ?? null) === this.#token) return;
    const other = account?.userName !== this.#userName;
    if (other) this.#store.tab.removeAll("");
    if (account) {
      if (other) setAddress(""); // the room here is the other one's, who may not be in it
      this.#open(account);
    } else {
      this.#close("You have logged out in another tab.");
    }
  }
}

new App().start();
