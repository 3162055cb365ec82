import { el } from "./dom.js";

const address = /https?:\/\/[^\s<>"]+/gi;
const closers = { ")": "(", "]": "[", "}": "{" };

/** The nodes of a message's text: strings, and a link for each http:// and https:// address in it. */
export function textNodes(text) {
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(address)) {
    const href = withoutPunctuation(match[0]);
    if (!URL.canParse(href)) continue;
    nodes.push(text.slice(end, match.index), link(href));
    end = match.index + href.length;
  }
  nodes.push(text.slice(end));
  return nodes;
}

function link(href) {
  return el("a", { href, target: "_blank", rel: "noopener noreferrer" }, href);
}

// What ends a sentence is not part of the address, nor is a bracket that was opened before it.
function withoutPunctuation(href) {
  const count = (bracket) => href.split(bracket).length - 1;
  const surplus = {};
  for (const [closer, opener] of Object.entries(closers)) surplus[closer] = count(closer) - count(opener);
  let end = href.length;
  for (; end > 0; end--) {
    const last = href[end - 1];
    if (last in closers ? surplus[last]-- <= 0 : !".,;:!?'*_~".includes(last)) break;
  }
  return href.slice(0, end);
}
