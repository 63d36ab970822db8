// A question and its answer: what `useSluiceway` is for, on one screen.

import { useState } from "react";

import { useSluiceway } from "./useSluiceway.js";

const SAID = {
  idle: "",
  waiting: "Waiting for the first token",
  streaming: "Answering",
  reconnecting: "The connection was lost; reconnecting",
  done: "Done",
  stopped: "Stopped",
  error: "Failed",
};

/** `model`: left to Sluiceway's default where there is none. */
export function Ask({ model }) {
  const { text, status, error, usage, send, stop } = useSluiceway();
  const [question, setQuestion] = useState("");
  const running = ["waiting", "streaming", "reconnecting"].includes(status);

  function ask(event) {
    event.preventDefault();
    send(model ? { model, prompt: question } : question);
  }

  return (
    <form onSubmit={ask}>
      <input aria-label="Question" value={question} onChange={(event) => setQuestion(event.target.value)} required />
      <button disabled={running}>Ask</button>
      <button type="button" onClick={stop} disabled={!running}>
        Stop
      </button>
      <p role="status" data-status={status}>
        {SAID[status]}
        {usage && ` (${usage.output_tokens} tokens)`}
      </p>
      <p aria-label="Answer" aria-busy={running} style={{ whiteSpace: "pre-wrap" }}>
        {text}
      </p>
      {error && <p role="alert">{error.message}</p>}
    </form>
  );
}
