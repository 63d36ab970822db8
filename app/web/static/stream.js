// What the page asks the server, and one event stream of its answers: the bytes of a response, our native events, and
// every way it can go wrong.
//
// The rule: an answer is whole only if it said so. The iterator ends quietly after `finish`, and in no other way.
// An `error` event, an HTTP status, an unreachable server and a body that just stops all throw `AnswerError`; the
// trap is the last one, because to fetch a body cut at a frame boundary looks like success.

import { SSEParser } from "./sse.js";

/**
 * Why there is no (whole) answer. `message` is written for the reader of the page and says what to do next. `passing`:
 * the way to the server failed, and not what was asked; the same may work in a moment.
 */
export class AnswerError extends Error {
  constructor(message, { code, status = 0, requestId = "", retryAfterS = null, passing = false } = {}) {
    super(message);
    this.name = "AnswerError";
    Object.assign(this, { code, status, requestId, retryAfterS, passing });
  }
}

/** The API key, kept for this tab only. Where the browser forbids storage it lasts as long as the page. */
export const key = {
  held: "",
  get() {
    try {
      return sessionStorage.getItem("sluiceway.key") ?? this.held;
    } catch {
      return this.held;
    }
  },
  set(value) {
    this.held = value;
    try {
      sessionStorage.setItem("sluiceway.key", value);
    } catch {
      // Private windows: `held` serves.
    }
  },
};

/** `GET v1/models`, in the server's order: the first one is its default. */
export async function listModels() {
  const response = await request("v1/models");
  return (await response.json()).data;
}

/**
 * The events of a response. Yields `[number, {type, ...}]`, `finish` last; `number` is 0 where an event has none.
 *
 * @param {Response} response
 * @param {AbortSignal} signal aborting it closes the connection and throws its reason
 * @throws {AnswerError} also for an `error` event; what was yielded before stands
 */
export async function* eventsOf(response, signal) {
  const requestId = response.headers.get("X-Request-ID") ?? "";
  const broken = (why, code, passing = false) =>
    new AnswerError(`${why}; the answer is incomplete.`, { code, requestId, passing });
  const lost = () => broken("The connection was lost", "connection_lost", true);

  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
    response.body?.cancel().catch(() => {});
    throw new AnswerError("The server did not answer with an event stream. Is a proxy in between?", {
      code: "unexpected_answer",
      requestId,
    });
  }
  const reader = response.body.getReader();
  const close = () => reader.cancel().catch(() => {});
  const parser = new SSEParser();
  let ended = false;
  signal.addEventListener("abort", close);
  try {
    for (;;) {
      let chunk = { done: true };
      try {
        if (!signal.aborted) chunk = await reader.read();
      } catch {
        // As good as a body that ends.
      }
      signal.throwIfAborted();
      if (chunk.done) throw lost();
      for (const { data, id } of parser.feed(chunk.value)) {
        if (data === "[DONE]") throw lost(); // done without having finished
        let event;
        try {
          event = JSON.parse(data);
        } catch {
          throw broken("The server sent an event that is not JSON", "unexpected_answer");
        }
        ended = event.type === "finish" || event.type === "error";
        if (event.type === "error") {
          throw new AnswerError(event.message, {
            code: event.code,
            status: event.status,
            requestId: event.request_id || requestId,
          });
        }
        yield [Number(id) || 0, event];
        if (ended) return;
      }
    }
  } finally {
    signal.removeEventListener("abort", close);
    // After the terminal event only [DONE] is left. Reading it keeps the connection for the next answer; cancelling
    // would close it. Nobody waits for this, so a server that never ends its body holds nothing up.
    if (ended) drain(reader);
    else close();
  }
}

async function drain(reader) {
  try {
    while (!(await reader.read()).done);
  } catch {
    // The answer is whole; how its connection ends interests nobody.
  }
}

/**
 * A response with a good status. `path` is relative to the page, so that it works under any URL prefix.
 *
 * @throws {AnswerError} for any other; what an aborted `init.signal` makes fetch throw passes through
 */
export async function request(path, { headers, ...init } = {}) {
  const bearer = key.get();
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), {
      ...init,
      headers: bearer ? { ...headers, Authorization: `Bearer ${bearer}` } : headers,
    });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new AnswerError("The server cannot be reached. Check that it is running and that you are online.", {
      code: "unreachable",
      passing: true,
    });
  }
  if (response.ok) return response;

  // Our own errors are JSON; a proxy's are a page of HTML, of which only the status is worth showing.
  const { error = {} } = await response.json().catch(() => ({}));
  throw new AnswerError(error.message ?? `The server answered ${response.status} ${response.statusText}.`.trim(), {
    code: error.code ?? "http_error",
    status: response.status,
    requestId: error.request_id ?? response.headers.get("X-Request-ID") ?? "",
    retryAfterS: retryAfter(response.headers.get("Retry-After")),
    passing: !error.code && response.status >= 502 && response.status <= 504, // a proxy's own word
  });
}

/** Whole seconds or an HTTP date (RFC 9110, 10.2.3); null where there is neither. */
function retryAfter(value) {
  if (!value) return null;
  const seconds = /^\d+$/.test(value.trim()) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : null;
}
