"use client";

import { type FormEvent, useState } from "react";

import { summarize } from "./actions";

export function Summary() {
  const [summary, setSummary] = useState("");
  const [error, setError] = useState("");
  const [running, setRunning] = useState(false);

  async function submit(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const text = new FormData(event.currentTarget).get("text") as string;
    setSummary("");
    setError("");
    setRunning(true);
    try {
      const reader = (await summarize(text)).getReader();
      for (let next = await reader.read(); !next.done; next = await reader.read()) {
        const piece = next.value;
        if ("text" in piece) setSummary((before) => before + piece.text);
        // Sluiceway counts characters, JavaScript UTF-16 units: an emoji would be cut in half.
        else if ("kept" in piece) setSummary((before) => [...before].slice(0, piece.kept).join(""));
        else setError(piece.error);
      }
    } catch {
      setError("The connection was lost; the summary is incomplete.");
    } finally {
      setRunning(false);
    }
  }

  return (
    <form onSubmit={submit}>
      <textarea name="text" aria-label="Text" required />
      <button disabled={running}>Summarize</button>
      <p aria-label="Summary" aria-busy={running}>
        {summary}
      </p>
      {error && <p role="alert">{error}</p>}
    </form>
  );
}
