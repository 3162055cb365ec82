const patience = 20_000; // ms for an answer
const listPatience = 8_000; // ms, of the call that also tells whether the server is there

/**
 * Why a call failed. The message is a sentence for the person; `code` is the server's, or UNREACHABLE when
 * there was no answer at all.
 */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether the token of the call is of no use any more. */
  get tokenRefused() {
    return this.status === 401 && this.code.startsWith("TOKEN_");
  }
}

async function call(method, path, { token, body, within = patience } = {}) {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  let answer;
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(within),
    });
    answer = await response.text();
  } catch {
    throw new ApiError(0, "UNREACHABLE", "The server cannot be reached. Check your connection and try again.");
  }
  try {
    answer = JSON.parse(answer);
  } catch {
    answer = null; // a proxy's page, not the server's answer
  }
  if (response.ok && answer) return answer;
  throw new ApiError(
    response.status,
    answer?.code ?? "UNREACHABLE",
    answer?.error ?? `The server is not available right now (${response.status}). Try again in a moment.`,
  );
}

const room = (code) => `/rooms/${encodeURIComponent(code)}`;
// A browser takes dots alone out of a path; the server ignores the space.
const named = (userName) => encodeURIComponent(/^\.\.?$/.test(userName) ? `${userName} ` : userName);

export function register(userName, password) {
  return call("POST", "/register", { body: { user_name: userName, password } });
}

/** Returns the user token. An `earlier` one of the user, if there is one, may have expired. */
export async function login(userName, password, earlier) {
  return (await call("POST", "/login", { token: earlier, body: { user_name: userName, password } })).token;
}

/** Returns the rooms that the user is a member of. */
export async function listRooms(userToken) {
  return (await call("GET", "/rooms", { token: userToken, within: listPatience })).rooms ?? [];
}

/** Returns the short code of the new room. */
export async function createRoom(userToken, name, password) {
  const body = { room_name: name, room_password: password };
  return (await call("POST", "/rooms", { token: userToken, body })).short_code;
}

export function deleteRoom(userToken, code) {
  return call("DELETE", room(code), { token: userToken });
}

/** Returns a room token. A member needs no password. */
export async function joinRoom(userToken, code, password) {
  const body = { room_password: password };
  return (await call("POST", `${room(code)}/join`, { token: userToken, body })).token;
}

/** Returns the names of those who are present. */
export async function listPresent(roomToken, code) {
  const { users } = await call("GET", `${room(code)}/users`, { token: roomToken });
  return (users ?? []).map((user) => user.user_name);
}

/** Returns up to `limit` messages below `beforeSeq` (0: from the end), oldest first; the server may give fewer. */
export async function listMessages(roomToken, code, beforeSeq, limit) {
  const query = `?before_seq=${beforeSeq}&limit=${limit}`;
  return (await call("GET", `${room(code)}/messages${query}`, { token: roomToken })).messages ?? [];
}

/** Returns `{ user_name, role, … }`. */
export function getAccount(userToken) {
  return call("GET", "/account", { token: userToken });
}

/** Returns a new user token: the old one is void then. */
export async function changePassword(userToken, password, newPassword) {
  const body = { password, new_password: newPassword };
  return (await call("POST", "/account/password", { token: userToken, body })).token;
}

export function deleteAccount(userToken, password) {
  return call("POST", "/account/delete", { token: userToken, body: { password } });
}

/** Changes `room_name`, `room_password` or `owner`, and returns the room as listRooms does. */
export function changeRoom(userToken, code, change) {
  return call("PATCH", room(code), { token: userToken, body: change });
}

/** Returns `{ user_name, owner }` of each. */
export async function listMembers(userToken, code) {
  return (await call("GET", `${room(code)}/members`, { token: userToken })).members;
}

export function removeMember(userToken, code, userName) {
  return call("DELETE", `${room(code)}/members/${named(userName)}`, { token: userToken });
}

/** Returns `{ user_name, created_at }` of each. */
export async function listBans(userToken, code) {
  return (await call("GET", `${room(code)}/bans`, { token: userToken })).bans;
}

/** Bans a user from a room, or lifts the ban. */
export function setBan(userToken, code, userName, banned) {
  return call(banned ? "PUT" : "DELETE", `${room(code)}/bans/${named(userName)}`, { token: userToken });
}

/** Returns a page of "users", "rooms" or "audit" for an ADMIN. */
export async function adminList(userToken, what, parameters) {
  const answer = await call("GET", `/admin/${what}?${new URLSearchParams(parameters)}`, { token: userToken });
  return answer[what] ?? answer.entries;
}

/** Changes the `role` of an account, or whether it is `disabled`. */
export function changeUser(userToken, userName, change) {
  return call("PATCH", `/admin/users/${named(userName)}`, { token: userToken, body: change });
}

export function resetPassword(userToken, userName, newPassword) {
  return call("POST", `/admin/users/${named(userName)}/password`, { token: userToken, body: { new_password: newPassword } });
}

export function endSessions(userToken, userName) {
  return call("DELETE", `/admin/users/${named(userName)}/sessions`, { token: userToken });
}
