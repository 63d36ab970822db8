// How this server reaches Sluiceway: a request of the browser's is passed on, and what comes back is passed on as it
// comes, byte by byte. The address and the key stay here; the browser only knows its own origin.
//
// With one key for all, Sluiceway takes all users for one: whoever knows a chat's id can go on with its answer, or stop
// it. An app with users asks who it is in `forward`, and whose the chat is, before it passes anything on.

import type { NextRequest } from "next/server";

const BASE = (process.env.SLUICEWAY_URL ?? "http://127.0.0.1:8000").replace(/\/+$/, "");

// What of a request concerns Sluiceway. No cookies: they are between the browser and this server.
const ON_THE_WAY_UP = ["accept", "content-type", "idempotency-key", "last-event-id", "x-request-id"];

// Headers of one connection (RFC 9110, 7.6.1), of a packing that `fetch` has undone, and what this server says itself.
const OF_THE_CONNECTION = ["connection", "keep-alive", "transfer-encoding"];
const OF_THE_PACKING = ["content-encoding", "content-length"];
const NOT_ON_THE_WAY_DOWN = [...OF_THE_CONNECTION, ...OF_THE_PACKING, "date", "server"];

/** A route handler: the same method and path at Sluiceway, the same answer here. */
export async function forward(request: NextRequest): Promise<Response> {
  const headers = new Headers();
  for (const name of ON_THE_WAY_UP) {
    const value = request.headers.get(name);
    if (value !== null) headers.set(name, value);
  }
  let answer: Response;
  try {
    answer = await ask(request.nextUrl.pathname + request.nextUrl.search, {
      method: request.method,
      headers,
      // Streamed: what is too large is refused by Sluiceway, and never held here.
      body: request.body,
      duplex: "half",
      // The browser's departure, before the first byte or after it, closes the connection to Sluiceway.
      signal: request.signal,
    });
  } catch (error) {
    if (request.signal.aborted) return new Response(null, { status: 499 }); // nobody is there to read it
    return unreachable(error);
  }
  const down = new Headers(answer.headers);
  for (const name of NOT_ON_THE_WAY_DOWN) down.delete(name);
  return new Response(answer.body, { status: answer.status, statusText: answer.statusText, headers: down });
}

/** `fetch` of a path of Sluiceway's, with this server's key. */
export function ask(path: string, init: RequestInit & { duplex?: "half" }): Promise<Response> {
  const headers = new Headers(init.headers);
  if (process.env.SLUICEWAY_API_KEY) headers.set("authorization", `Bearer ${process.env.SLUICEWAY_API_KEY}`);
  // A proxy in between could compress, and would hold back tokens until it has enough of them.
  headers.set("accept-encoding", "identity");
  return fetch(BASE + path, { ...init, headers, cache: "no-store" });
}

function unreachable(error: unknown): Response {
  console.error("Sluiceway can't be reached:", error);
  const message = "The service that answers can't be reached. Try again in a moment.";
  return Response.json({ error: { code: "unreachable", message, retryable: true, status: 502 } }, { status: 502 });
}
