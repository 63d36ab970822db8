// A client to copy, without dependencies: browsers, and Node.js from 18 on.
//
//     import { stream } from "./browser_fetch.js";
//
//     const stop = new AbortController();
//     for await (const event of stream("/v1/streams", { prompt: "Hello" }, { signal: stop.signal })) {
//       if (event.type === "text") output.append(event.text);
//     }
//
// EventSource can't POST, so the body of a fetch is read. The answer is a resource of the server's: a lost connection is
// followed by another one, which goes on behind the last event that has come; whoever aborts the signal or leaves the
// loop stops the answer at the provider.

// The server gives a sign of life each 15 s (`server.heartbeat_s`): an answer may be as slow as it likes, but where not
// even these come the connection is dead. How long an answer may take in all, the server knows (`timeouts.total_s`).
const SILENCE_MS = 45_000;

// Between the tries to come back; after an event there are as many again. All in all less than the server lets an answer
// go on without a reader (`store.resume_grace_s`, 30 s).
const PAUSES_MS = [500, 1000, 2000, 4000, 8000];

/**
 * There is no whole answer; events that were yielded stand. `code` is the server's (README, "Errors"), or
 * `connection_lost`; `status` 0 where there was none. `refused`: by its status, before the first event. `retryable`:
 * the same request may succeed later, in `retryAfterMs` at the earliest.
 */
export class StreamError extends Error {
  constructor({ message, ...error }, { refused = false, passing = false, retryAfterMs = 0 } = {}) {
    super(message ?? "no reason was given");
    this.name = "StreamError";
    this.code = error.code ?? "connection_lost";
    this.status = error.status ?? 0;
    this.retryable = error.retryable ?? passing;
    this.requestId = error.request_id ?? "";
    Object.assign(this, { refused, retryAfterMs, passing }); // passing: another connection may bring the rest
  }
}

/**
 * Server-Sent Events as the standard reads them (HTML, 9.2.6), from bytes that are cut anywhere: in a character, between
 * CR and LF. A message is given at the byte that completes it; one that the end of the body leaves unfinished is none,
 * and its id was never seen. One parser is for all connections of a stream, `connected` before each.
 */
export class SSEParser {
  lastId = "";
  retryMs = 0;
  #decoder;
  #line; // the one that has begun, in pieces
  #afterCR;
  #event;
  #data;
  #id;

  constructor() {
    this.connected();
  }

  connected() {
    this.#decoder = new TextDecoder(); // replaces broken bytes, drops a byte order mark
    this.#line = [];
    this.#afterCR = false;
    this.#event = "";
    this.#data = [];
    this.#id = this.lastId;
  }

  /**
   * @param {Uint8Array} bytes
   * @returns {{event: string, data: string, id: string}[]}
   */
  feed(bytes) {
    const messages = [];
    let text = this.#decoder.decode(bytes, { stream: true });
    if (!text) return messages;
    const cr = text.endsWith("\r");
    if (this.#afterCR && text.startsWith("\n")) text = text.slice(1);
    this.#afterCR = cr;
    const lines = text.split(/\r\n|\r|\n/);
    const rest = lines.pop();
    for (const line of lines) {
      this.#take(this.#line.join("") + line, messages);
      this.#line = [];
    }
    this.#line.push(rest);
    return messages;
  }

  #take(line, messages) {
    if (line === "") {
      this.lastId = this.#id;
      if (this.#data.length) {
        messages.push({ event: this.#event || "message", data: this.#data.join("\n"), id: this.#id });
      }
      this.#event = "";
      this.#data = [];
      return;
    }
    const [, field, value] = /^([^:]*)(?:: ?)?(.*)$/s.exec(line); // a comment, as heartbeats are, has no field's name
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    else if (field === "retry" && /^[0-9]+$/.test(value)) this.retryMs = Number(value);
  }
}

/**
 * The events of an answer, `{type: "text", text}` and others (README, "Routes"), `finish` last.
 *
 * @param {string} url of `v1/streams`; in a browser it may be relative
 * @param {object} body `{prompt}` or `{messages}`, `model`, ...
 * @param {object} [options]
 * @param {AbortSignal} [options.signal] aborting it stops the answer, and throws its reason
 * @param {string} [options.apiKey]
 * @param {string} [options.key] the answer's idempotency key: asked for with the same one and the same body, it is the
 *   same answer, from its beginning
 * @param {number} [options.silenceMs]
 * @param {number[]} [options.pausesMs]
 * @param {(error: StreamError) => void} [options.lost] is told that the connection was lost and another will be tried
 * @throws {StreamError}
 */
export async function* stream(
  url,
  body,
  { signal, apiKey = "", key = newKey(), silenceMs = SILENCE_MS, pausesMs = PAUSES_MS, lost = () => {} } = {},
) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": key };
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  const question = { method: "POST", body: JSON.stringify({ ...body, resumable: true }) };
  const parser = new SSEParser();
  let where = "";
  let tries = 0;
  let over = false;
  try {
    for (;;) {
      let error;
      // One for each connection: it ends with the answer, by the signal, or where it falls silent.
      const connection = new AbortController();
      const stopped = () => connection.abort();
      signal?.addEventListener("abort", stopped);
      const heard = async (promise) => {
        const silent = new Error(`nothing was heard for ${silenceMs / 1000} s`);
        const timer = setTimeout(() => connection.abort(silent), silenceMs);
        try {
          return await promise;
        } finally {
          clearTimeout(timer);
        }
      };
      try {
        signal?.throwIfAborted();
        // While its name is not known, it is asked for again; by its key it is still one answer.
        const response = await heard(
          fetch(where || url, {
            ...(where ? { cache: "no-store" } : question),
            headers: parser.lastId ? { ...headers, "Last-Event-ID": parser.lastId } : headers,
            signal: connection.signal,
          }),
        );
        await check(response, tries > 0);
        parser.connected();
        let last = parser.lastId;
        const reader = response.body.getReader();
        for (;;) {
          const { done, value } = await heard(reader.read());
          if (done) break;
          for (const message of parser.feed(value)) {
            signal?.throwIfAborted(); // what has come already is not wanted any more either
            const event = eventOf(message.data);
            if (event.type === "error") {
              // Without a number of its own it is this connection's: its worker is going down, say.
              throw new StreamError(event, { passing: event.retryable && message.id === last });
            }
            if (event.type === "start") where = `${url}/${event.id}`;
            last = message.id;
            tries = 0;
            over = event.type === "finish";
            yield event;
            if (over) return;
          }
        }
        throw new StreamError({ message: "the connection ended before the answer did" }, { passing: true });
      } catch (cause) {
        signal?.throwIfAborted();
        error = cause;
        if (!(error instanceof StreamError)) {
          error = new StreamError({ message: `the connection was lost: ${cause.message}` }, { passing: true });
          error.cause = cause;
        }
      } finally {
        signal?.removeEventListener("abort", stopped);
        connection.abort();
      }
      if (!error.passing || tries === pausesMs.length) {
        over = !error.passing;
        throw error;
      }
      lost(error);
      const wantedMs = Math.max((0.5 + Math.random() / 2) * pausesMs[tries++], parser.retryMs, error.retryAfterMs);
      await pause(Math.min(wantedMs, PAUSES_MS.at(-1)), signal);
    }
  } finally {
    if (!over) stop(url, headers);
  }
}

// By the key: the answer's name may not have come yet. Nobody waits for this; what it does not reach, the server ends
// after a while.
async function stop(url, headers) {
  for (const pauseMs of [200, 1000, 0]) {
    // keepalive: also where the page is being left.
    const response = await fetch(url, { method: "DELETE", headers, keepalive: true }).catch(() => null);
    response?.body?.cancel();
    if (response && response.status !== 404) return;
    await pause(pauseMs); // it may have overtaken the question
  }
}

async function check(response, again) {
  const { ok, status, statusText } = response;
  if (ok && response.headers.get("Content-Type")?.startsWith("text/event-stream")) return;
  const told = await response.json().catch(() => null); // null: a proxy's own page, say
  throw new StreamError(
    { code: "unexpected_answer", status, message: `${status} ${statusText}, no event stream`, ...told?.error },
    {
      refused: true,
      // What refuses an answer that had begun is a worker that is just starting, or the proxy in front of it.
      passing: again && (status >= 500 || status === 429),
      retryAfterMs: 1000 * (Number(response.headers.get("Retry-After")) || 0),
    },
  );
}

function eventOf(data) {
  try {
    const event = JSON.parse(data);
    if (event?.type) return event;
  } catch {
    // Neither is this.
  }
  throw new StreamError({ code: "unexpected_answer", message: `no event: ${data.slice(0, 80)}` });
}

/** Throws the signal's reason as soon as there is one. */
async function pause(ms, signal) {
  signal?.throwIfAborted();
  await new Promise((resolve) => {
    setTimeout(resolve, ms);
    signal?.addEventListener("abort", resolve, { once: true });
  });
  signal?.throwIfAborted();
}

/** Not randomUUID: a page on plain http has none. Node.js 18 has no `crypto` at all. */
function newKey() {
  const bytes = globalThis.crypto?.getRandomValues(new Uint8Array(16)) ?? Array.from({ length: 16 }, Math.random);
  return Array.from(bytes, (byte) => byte.toString(36).replace(".", "")).join("-");
}
