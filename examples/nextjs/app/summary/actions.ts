"use server";

import { ask } from "@/sluiceway";

/** `kept`: only so many characters of the text so far stand (another model goes on with it). `error`: the last piece. */
export type Piece = { text: string } | { kept: number } | { error: string };

/**
 * A summary, piece by piece. Errors are pieces: what a server action throws reaches the browser without its words.
 *
 * Any visitor can call a server action with anything, so this is where an app asks who it is. A page can't abort one
 * either: closing the page closes the connections behind it, Stop needs a route (as in /api/chat).
 */
export async function summarize(text: string): Promise<ReadableStream<Piece>> {
  const body = {
    model: process.env.SLUICEWAY_MODEL, // left out of the JSON where it is not set: then Sluiceway's default
    system: "Summarize the user's text in at most three sentences.",
    prompt: String(text),
    format: "ndjson",
  };
  let answer: Response;
  try {
    answer = await ask("/v1/streams", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    return only({ error: "The service that answers can't be reached. Try again in a moment." });
  }
  if (!answer.ok || !answer.body) {
    const { error } = await answer.json().catch(() => ({}));
    return only({ error: error?.message ?? `The service answered ${answer.status}.` });
  }
  // A pipe, not an async generator: who cancels it need not wait until the next token has come.
  return answer.body.pipeThrough(new TextDecoderStream()).pipeThrough(pieces());
}

function only(piece: Piece): ReadableStream<Piece> {
  return new ReadableStream({
    start(controller) {
      controller.enqueue(piece);
      controller.close();
    },
  });
}

/** Sluiceway's events, one JSON object a line (an empty line says that the connection lives), as pieces. */
function pieces(): TransformStream<string, Piece> {
  let rest = "";
  let ended = false;
  return new TransformStream({
    transform(chunk, controller) {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (!line) continue;
        const event = JSON.parse(line);
        ended ||= event.type === "finish" || event.type === "error";
        if (event.type === "text") controller.enqueue({ text: event.text });
        if (event.type === "recovered") controller.enqueue({ kept: event.kept_chars });
        if (event.type === "error") controller.enqueue({ error: event.message });
      }
    },
    flush(controller) {
      if (!ended) controller.enqueue({ error: "The connection was lost; the summary is incomplete." });
    },
  });
}
