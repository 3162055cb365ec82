/**
 * Makes an element. Of props, `dataset` is merged, a name with a hyphen (or `role`) becomes an attribute, all
 * others are properties. Children are nodes or strings; a string always becomes text, never markup.
 */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name === "dataset") Object.assign(node.dataset, value);
    else if (name.includes("-") || name === "role") node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children);
  return node;
}

/** The rows of a list. They stay the same elements as long as what they show does: a click that is under way would be lost. */
export class Rows {
  #list;
  #shown = "";

  constructor(list) {
    this.#list = list;
  }

  /** Shows the elements that `make` returns for `what`, which JSON can tell from something else. */
  show(what, make) {
    const key = JSON.stringify(what);
    if (key === this.#shown) return;
    this.#shown = key;
    this.#list.replaceChildren(...make());
  }
}

/** Makes a small button of a list's row, with a longer name for who hears the page. */
export function button(text, onclick, ariaLabel = text) {
  return el("button", { type: "button", className: "small", onclick, ariaLabel }, text);
}

/** Keeps the keyboard in an open dialog when what had it is gone. */
export function keepFocus(dialog) {
  if (dialog.open && document.activeElement === document.body) dialog.querySelector("[value=cancel]").focus();
}

/** Makes an icon of the sprite in index.html. It is hidden from screen readers: give its button a name. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

/** Sets text only where it differs, so that a live region does not speak again and a selection stays. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Returns a function that runs `task` once in the next frame, however often it is called until then. */
export function oncePerFrame(task) {
  let frame = 0;
  let timer = 0;
  const run = () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
    frame = timer = 0;
    task();
  };
  return () => {
    if (timer) return;
    frame = requestAnimationFrame(run);
    timer = setTimeout(run, 400); // a hidden tab has no frames, and is to be right when it is shown
  };
}
