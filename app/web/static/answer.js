// One answer, over as many connections as it takes, and its end where it is made.
//
// A resumable answer is a resource of the server's: it goes on for a while when nobody listens, is told again from any
// event on, and asked for twice with one idempotency key it is still one answer. So a lost connection is followed by
// another, and a reload goes on where the page stood. The price: closing the connection stops nothing any more, and
// Stop has to say so. A plain answer lives as long as its connection; it is asked for where the tab can keep nothing
// that a reload could go on from, and where the server can't keep streams.

import { AnswerError, eventsOf, request } from "./stream.js";

const STREAMS = "v1/streams";

// Between the tries to get back to a stream. All in all less than the server lets one go on without a reader (30 s).
const PAUSES_S = [0.5, 1, 2, 4, 8];

// A first request that fails sooner never got through: the reader hears so at once.
const WAITED_MS = 1000;

// An answer without a stream yet is not asked for again later than this: whoever comes back then has to want it.
const FRESH_MS = 600_000;

// A page that is being left sees its connections break before it is gone, and must not take that for the answer's end.
// iOS does not say that it leaves.
const LEAVING_S = 3;
const MAYBE_LEAVING_S = 0.2;
let leaving = false;
addEventListener("beforeunload", () => (leaving = true));
addEventListener("pageshow", () => (leaving = false));

/** Milliseconds since 1970, as even as performance.now(), and with the same meaning after a reload. */
export const nowMs = () => performance.timeOrigin + performance.now();

/**
 * Where the reading of an answer stands: plain data, from which a later page can go on.
 *
 * `key`: its idempotency key, "" for a plain answer. `stream`: its id at the server, "" while that is not known, and
 * when there is nothing left of it. `last`: the number of the last event that was read.
 */
export function beginning() {
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID() is missing on plain http
  const key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { key, stream: "", last: 0, askedMs: nowMs() };
}

/** Whether an answer at this place can be gone on with by another page. */
export function canGoOn({ key, stream, askedMs }) {
  return Boolean(key && (stream || nowMs() - askedMs < FRESH_MS));
}

/**
 * What follows `place`, which moves along: `POST v1/streams`, then `GET v1/streams/<id>` as often as necessary. Yields
 * `{type, ...}` objects, `finish` last.
 *
 *     for await (const event of streamAnswer({ messages }, beginning(), signal)) ...
 *
 * @param {{model?: string, messages: {role: string, content: string}[]}} body the same whenever `place` is the same
 * @param {ReturnType<typeof beginning>} place
 * @param {AbortSignal} signal aborting it throws its reason, and stops the answer at the provider
 * @param {() => void} lost is called when the connection was lost and another will be tried
 * @throws {AnswerError} also for an `error` event; what was yielded before stands
 */
export async function* streamAnswer(body, place, signal, lost = () => {}) {
  let tries = 0;
  for (;;) {
    try {
      const response = await (place.stream ? follow(place, signal) : begin(body, place, signal));
      for await (const [number, event] of eventsOf(response, signal)) {
        tries = 0;
        if (number && number <= place.last) continue;
        place.last = number || place.last;
        if (event.type === "finish") place.stream = "";
        yield event;
        if (event.type === "finish") return;
      }
    } catch (error) {
      try {
        if (error.passing) await pause(leaving ? LEAVING_S : MAYBE_LEAVING_S, signal);
        const begun = place.stream || (place.key && nowMs() - place.askedMs > WAITED_MS);
        if (!error.passing || !begun || tries === PAUSES_S.length) throw error;
        lost();
        await pause(PAUSES_S[tries++], signal);
      } catch (final) {
        if (signal.aborted) stopStream(place);
        throw final;
      }
    }
  }
}

/** Ends what may still be running of an answer. Nobody waits for it: what it does not reach, the server ends itself. */
export function stopStream(place) {
  const { stream, key, last } = place;
  if (!stream && (!key || last)) return;
  // Its id comes with the first token; until then its key stands for it.
  const [path, headers] = stream ? [at(stream), {}] : [STREAMS, { "Idempotency-Key": key }];
  // keepalive: also where the page is left at once.
  request(path, { method: "DELETE", headers, keepalive: true }).catch(() => {});
  place.stream = "";
}

async function begin(body, place, signal) {
  const ask = (body, more) =>
    request(STREAMS, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "text/event-stream", ...more.headers },
      body: JSON.stringify(body),
      signal: more.signal,
    });
  if (!place.key) return ask(body, { signal });
  try {
    // Without the signal: where Stop overtakes this, the server does not know the key yet, and the answer is stopped by
    // the name that comes with its headers.
    const asked = ask({ ...body, resumable: true }, { headers: { "Idempotency-Key": place.key } });
    const response = await unlessAborted(asked, signal, (late) => {
      late.body?.cancel().catch(() => {});
      stopStream({ stream: nameOf(late) });
    });
    place.stream = nameOf(response);
    if (!place.stream) place.key = "";
    return response;
  } catch (error) {
    // Too many streams are "overloaded" as well; a store that can't be used is named.
    if (error.code !== "overloaded" || !error.message.startsWith("the store (")) throw error;
    place.key = "";
    return ask(body, { signal });
  }
}

async function follow(place, signal) {
  let response;
  try {
    response = await request(`${at(place.stream)}?after=${place.last}`, {
      headers: { Accept: "text/event-stream" },
      cache: "no-store",
      signal,
    });
  } catch (error) {
    if (error.status === 404) throw gone(place, error);
    if (error.status >= 500) error.passing = true; // the store, or the worker, is just being restarted
    throw error;
  }
  if (response.status === 204) throw gone(place);
  return response;
}

function gone(place, { requestId = "" } = {}) {
  place.stream = "";
  return new AnswerError("The server no longer keeps the rest of this answer; the answer is incomplete.", {
    code: "not_found",
    requestId,
  });
}

const at = (stream) => `${STREAMS}/${stream}`;

/** As it stands in a URL. The path in front of it is the server's view, which a proxy may have changed. */
const nameOf = (response) => response.headers.get("Location")?.split("/").pop() ?? "";

/** What `asked` resolves to; the signal's reason as soon as that aborts, and `late` then takes what comes. */
function unlessAborted(asked, signal, late) {
  return new Promise((resolve, reject) => {
    const aborted = () => {
      reject(signal.reason);
      asked.then(late, () => {});
    };
    if (signal.aborted) return aborted();
    signal.addEventListener("abort", aborted);
    const settled = () => signal.removeEventListener("abort", aborted);
    asked.finally(settled).then(resolve, reject);
  });
}

/** Or shorter: until the browser says that it is online again. Throws the signal's reason. */
async function pause(seconds, signal) {
  const over = new AbortController();
  await new Promise((resolve) => {
    setTimeout(resolve, 1000 * seconds);
    addEventListener("online", resolve, { signal: over.signal });
    if (signal.aborted) resolve();
    signal.addEventListener("abort", resolve, { signal: over.signal });
  });
  over.abort();
  signal.throwIfAborted();
}
