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
