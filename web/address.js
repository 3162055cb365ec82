/** The code of the room that the page's address names, or "". */
export function codeInAddress() {
  try {
    return codeOf(decodeURIComponent(location.hash));
  } catch {
    return ""; // not a link of ours
  }
}

/** Names a room in the address, or none (""), without a step in the browser's history. */
export function setAddress(code) {
  history.replaceState(null, "", code ? `#${code}` : location.pathname);
}

/** Notes with the step in the browser's history who was shown the room there. */
export function claimStep(userName) {
  if (history.state?.user !== userName.toLowerCase()) history.replaceState({ user: userName.toLowerCase() }, "");
}

/** Whether the step in the browser's history is one of somebody else. */
export function stepOfAnother(userName) {
  const user = history.state?.user;
  return Boolean(user) && user !== userName.toLowerCase();
}

/** The code in what a person gives, a code or an invitation link, or "". */
export function codeOf(text) {
  const code = text.slice(text.lastIndexOf("#") + 1).trim().toUpperCase();
  return /^[A-Z0-9]{1,64}$/.test(code) ? code : "";
}
