// One answer of Sluiceway's in a React component, as it comes. Nothing else is needed but React (18 or later):
//
//     const { text, status, error, usage, send, stop } = useSluiceway();
//
//     <button onClick={() => send("How does a lock work?")}>Ask</button>
//     <p>{text}</p>
//
// The answer is a resumable stream of `POST /v1/streams`. A connection that breaks is followed by another, which goes on
// behind the last event that came (`Last-Event-ID`). A reload, and React's StrictMode, which mounts everything twice, go
// on with the answer that sessionStorage names. A component that is gone closes its connection; Sluiceway lets the
// answer go on for a while, in case somebody comes back, and then ends it at the provider. `stop` ends it there at once.

import { useEffect, useState, useSyncExternalStore } from "react";

/**
 * @typedef {"idle" | "waiting" | "streaming" | "reconnecting" | "done" | "stopped" | "error"} Status
 *   The first three and the last three follow each other; `reconnecting` is a lost connection in between.
 * @typedef {{ input_tokens: number, output_tokens: number, source: "provider" | "estimated" }} Usage
 * @typedef {{ text: string, status: Status, error: AnswerError | null, usage: Usage | null }} State
 *   `text` stands, whatever happens after it.
 * @typedef {string | Record<string, unknown>} Question
 *   A prompt, or what else `POST /v1/streams` takes: `{ model, messages: [{ role, content }, ...], max_tokens, ... }`.
 *
 * @typedef {object} Options
 * @property {string} [url] where the streams are. On another origin, that has to be one of its `server.cors_origins`
 * @property {Record<string, string> | (() => Record<string, string>)} [headers] of every request: `Authorization`, say
 * @property {string} [storageKey] where sessionStorage keeps the place; each answer that lives at once has its own
 * @property {(event: { type: string, [field: string]: any }) => void} [onEvent] every event, for what is not in the
 *   state (reasoning, tool calls); after a reload from the first one on
 */

/** @type {State} */
const NOTHING = Object.freeze({ text: "", status: "idle", error: null, usage: null });

// Between the tries to get back to a stream. All in all less than Sluiceway lets one go on without a reader (30 s).
const PAUSES_MS = [500, 1000, 2000, 4000, 8000];

// Who comes back to a question that has no stream yet asks again, and later than this nobody waits for it any more.
const FRESH_MS = 60_000;

// A stream that was stopped says so itself. If it has not by then, that is not waited for.
const STOPPING_MS = 2000;

/**
 * @param {Options} [options]
 * @returns {State & { send(question: Question): void, stop(): void }} `send` drops what is still coming
 */
export function useSluiceway(options = {}) {
  const [answer] = useState(() => new Answer());
  const state = useSyncExternalStore(answer.subscribe, answer.read, () => NOTHING);
  useEffect(() => {
    answer.options = options;
  });
  useEffect(() => {
    answer.enter();
    return answer.leave;
  }, [answer]);
  return { ...state, send: answer.send, stop: answer.stop };
}

/** Why there is no (whole) answer. `code` is Sluiceway's own, or `connection_lost`, or `http_error`. */
export class AnswerError extends Error {
  /** @param {{ message: string, code?: string, status?: number, retryable?: boolean, request_id?: string }} told */
  constructor({ message, code = "http_error", status = 0, retryable = false, request_id = "" }) {
    super(message);
    this.name = "AnswerError";
    this.code = code;
    this.status = status;
    this.retryable = retryable;
    this.requestId = request_id;
  }
}

/**
 * What a question's stream is, and how far it was read.
 *
 * @typedef {object} Place
 * @property {string} key the idempotency key: asked for twice with one, it is still one answer
 * @property {Record<string, unknown>} body the question
 * @property {number} askedMs
 * @property {string} stream its id, "" until the first event
 * @property {number} last the number of the last event that was read
 * @property {boolean} stopping
 * @property {boolean} ended there is nothing more to read
 */

/** The answer, outside of React, and the only one who writes the state. */
class Answer {
  /** @type {Options} */
  options = {};

  #state = NOTHING; // as it is
  #shown = NOTHING; // as React has it
  #listener = () => {};
  #unscheduled = () => {};
  #scheduled = false;

  /** @type {Place | null} */
  #place = null;
  #connection = new AbortController(); // aborted where nobody reads

  /** @param {() => void} listener */
  subscribe = (listener) => {
    this.#listener = listener;
    return () => {
      this.#listener = () => {};
    };
  };

  read = () => this.#shown;

  /** @param {Question} question */
  send = (question) => {
    this.#drop();
    const asked = typeof question === "string" ? { prompt: question } : question;
    const at = { stream: "", last: 0, stopping: false, ended: false };
    this.#place = { key: newKey(), body: asked, askedMs: Date.now(), ...at };
    this.#keep();
    this.#listen(this.#place);
  };

  stop = async () => {
    const [place, connection] = [this.#place, this.#connection];
    if (!place || place.ended) return;
    place.stopping = true;
    this.#end(place);
    await pause(STOPPING_MS, connection.signal);
    if (place !== this.#place || place.ended) return;
    connection.abort();
    place.ended = true;
    this.#set({ status: "stopped" });
  };

  /** Mounted: goes on where it was left, by this component or by the page before. */
  enter = () => {
    this.#place ??= this.#kept();
    if (this.#place && !this.#place.ended) this.#listen(this.#place);
  };

  leave = () => {
    this.#connection.abort();
    this.#unscheduled();
  };

  /** @param {Place} place */
  async #listen(place) {
    this.#connection.abort();
    const { signal } = (this.#connection = new AbortController());
    this.#set(place.last ? {} : { ...NOTHING, status: "waiting" });
    for (let tries = 0; ; tries++) {
      const before = place.last;
      try {
        const response = place.stream ? await this.#follow(place, signal) : await this.#ask(place, signal);
        for await (const { id, data } of eventsOf(response)) {
          if (signal.aborted) return;
          if (!place.ended && data !== "[DONE]") this.#take(place, Number(id), JSON.parse(data));
        }
        // A body that just stops, at the end of an event even, is no end.
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof AnswerError) {
          // What a reload wants to go on with may be too old.
          if (error.code === "not_found" && place.stream && !place.last) return this.#forget();
          return this.#fail(place, error);
        }
      }
      if (place.ended) return;
      if (place.last > before) tries = 0;
      // What was never begun is not waited for: most likely nobody is there.
      if (tries === (place.stream ? PAUSES_MS.length : 1)) return this.#fail(place, lost());
      this.#set({ status: "reconnecting" });
      await pause(PAUSES_MS[tries], signal);
      if (signal.aborted) return;
    }
  }

  /**
   * @param {Place} place
   * @param {AbortSignal} signal
   */
  async #ask(place, signal) {
    const response = await this.#request("", {
      method: "POST",
      headers: { "Content-Type": "application/json", "Idempotency-Key": place.key },
      body: JSON.stringify({ ...place.body, resumable: true }),
      signal,
    });
    if (!response.ok) throw await refusal(response);
    return response;
  }

  /**
   * @param {Place} place
   * @param {AbortSignal} signal
   */
  async #follow(place, signal) {
    const headers = { "Last-Event-ID": String(place.last) };
    const response = await this.#request(`/${place.stream}`, { headers, signal });
    if (response.status === 204 || response.status === 404) throw gone();
    if (response.status < 500 && !response.ok) throw await refusal(response);
    if (!response.ok) throw new Error("it is just being restarted");
    return response;
  }

  /**
   * @param {Place} place
   * @param {number} number of the event; that of the one before where it has none
   * @param {{ type: string, [field: string]: any }} event
   */
  #take(place, number, event) {
    // An error without a number happened to this connection, and not to the answer.
    if (event.type === "error" && number === place.last) throw new Error(event.message);
    if (number <= place.last) return;
    place.last = number;
    switch (event.type) {
      case "start":
        place.stream = event.id;
        this.#keep();
        if (place.stopping) this.#end(place); // the first time came before the question
        this.#set({ ...NOTHING, status: "streaming" });
        break;
      case "text":
        this.#set({ text: this.#state.text + event.text, status: "streaming" });
        break;
      case "recovered":
        // Another model goes on. Sluiceway counts characters, JavaScript UTF-16 units: an emoji would be cut in half.
        this.#set({ text: [...this.#state.text].slice(0, event.kept_chars).join("") });
        break;
      case "usage":
        this.#set({ usage: { input_tokens: event.input_tokens, output_tokens: event.output_tokens, source: event.source } });
        break;
      case "finish":
        place.ended = true;
        this.#set({ status: event.reason === "cancelled" ? "stopped" : "done" });
        break;
      case "error":
        this.#fail(place, new AnswerError(/** @type {any} */ (event)));
        break;
    }
    try {
      this.options.onEvent?.(event);
    } catch (error) {
      reportError(error); // the app's own, which is no reason to ask again
    }
  }

  /**
   * @param {Place} place
   * @param {AnswerError} error
   */
  #fail(place, error) {
    place.ended = true;
    this.#set({ status: "error", error });
  }

  #forget() {
    this.#place = null;
    this.#set(NOTHING);
  }

  /** What a new question puts an end to. */
  #drop() {
    if (this.#place && !this.#place.ended) this.#end(this.#place);
  }

  /**
   * At the provider. Nobody waits for it: what it does not reach ends when nobody comes back.
   *
   * @param {Place} place
   */
  #end({ stream, key }) {
    const init = { method: "DELETE", keepalive: true };
    // Its id comes with the first event.
    const done = stream
      ? this.#request(`/${stream}`, init)
      : this.#request("", { ...init, headers: { "Idempotency-Key": key } });
    done.catch(() => {});
  }

  /**
   * @param {string} path
   * @param {RequestInit & { headers?: Record<string, string> }} init
   */
  #request(path, init) {
    const { url = "/v1/streams", headers = {} } = this.options;
    const own = typeof headers === "function" ? headers() : headers;
    return fetch(url + path, { ...init, headers: { ...own, ...init.headers }, cache: "no-store" });
  }

  /** @param {Partial<State>} change */
  #set(change) {
    this.#state = { ...this.#state, ...change };
    if (this.#place?.ended) this.#show(); // at once: a hidden tab has no frames, and what waits for the end should know
    else if (!this.#scheduled) this.#schedule();
  }

  /** Many tokens, one rendering: with the next frame of the screen. */
  #schedule() {
    const show = () => this.#show();
    const [timer, frame] = document.hidden ? [setTimeout(show, 250), 0] : [undefined, requestAnimationFrame(show)];
    this.#scheduled = true;
    this.#unscheduled = () => {
      clearTimeout(timer);
      cancelAnimationFrame(frame);
      this.#scheduled = false;
    };
  }

  #show() {
    this.#unscheduled();
    this.#shown = this.#state;
    this.#listener();
  }

  get #storageKey() {
    return this.options.storageKey ?? "sluiceway";
  }

  #keep() {
    const place = /** @type {Place} */ (this.#place);
    // The question only until it has a stream: it may be long, and may be nobody's business.
    const kept = { ...place, body: place.stream ? {} : place.body, last: 0 };
    try {
      sessionStorage.setItem(this.#storageKey, JSON.stringify(kept));
    } catch {
      // Forbidden, or full: then a reload begins anew.
    }
  }

  /** @returns {Place | null} */
  #kept() {
    try {
      const place = JSON.parse(sessionStorage.getItem(this.#storageKey) ?? "null");
      return place && (place.stream || Date.now() - place.askedMs < FRESH_MS) ? place : null;
    } catch {
      return null;
    }
  }
}

/**
 * The events of a body, each as soon as it is whole, by the rules of the HTML standard ("9.2.6 Interpreting an event
 * stream"). `id` is the last one that was said. What the end of the body leaves unfinished is no event.
 *
 * @param {Response} response
 */
async function* eventsOf({ body, headers }) {
  if (!body || !headers.get("Content-Type")?.startsWith("text/event-stream")) {
    throw new AnswerError({ message: "The server did not answer with an event stream.", code: "unexpected_answer" });
  }
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let [rest, event, data, id] = ["", "", "", ""];
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      const lines = (rest + next.value).split(/\r\n|\n|\r(?!$)/); // a CR at the end may be half of a CRLF
      rest = /** @type {string} */ (lines.pop());
      for (const line of lines) {
        if (line === "") {
          if (data) yield { event: event || "message", data: data.slice(0, -1), id };
          event = data = "";
          continue;
        }
        const [, field, value] = /** @type {string[]} */ (line.match(/^([^:]*)(?:: ?)?(.*)$/s));
        if (field === "data") data += `${value}\n`;
        else if (field === "event") event = value;
        else if (field === "id" && !value.includes("\0")) id = value;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // closes the connection where the reader went away; otherwise it is at its end
  }
}

/**
 * Of an answer that is none. Sluiceway's own are JSON; a proxy's are a page of HTML, of which only the status says much.
 *
 * @param {Response} response
 */
async function refusal(response) {
  const { error } = await response.json().catch(() => ({}));
  const { status } = response;
  return new AnswerError(error ?? { message: `The server answered ${status}.`, status, retryable: status >= 500 });
}

const lost = () =>
  new AnswerError({ message: "The connection was lost.", code: "connection_lost", retryable: true });

const gone = () =>
  new AnswerError({ message: "The server no longer keeps this answer.", code: "not_found", status: 404 });

/** `randomUUID` is missing on plain http. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Or shorter: until the signal is aborted, or the browser says that it is online again.
 *
 * @param {number} ms
 * @param {AbortSignal} signal
 */
function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(over, ms);
    signal.addEventListener("abort", over);
    addEventListener("online", over);
    function over() {
      clearTimeout(timer);
      signal.removeEventListener("abort", over);
      removeEventListener("online", over);
      resolve(undefined);
    }
  });
}
