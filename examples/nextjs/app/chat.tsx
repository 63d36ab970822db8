"use client";

import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport, getToolName, isToolUIPart, type UIMessage } from "ai";
import { type FormEvent, useEffect, useState } from "react";

type Part = UIMessage["parts"][number];

type Props = {
  id: string;
  messages: UIMessage[];
  keep(id: string, messages: UIMessage[]): void;
  renew(): void;
};

const transport = new DefaultChatTransport({ api: "/api/chat" });

export function Chat({ id, messages: kept, keep, renew }: Props) {
  const { messages, status, error, sendMessage, regenerate, resumeStream, stop } = useChat({
    id,
    messages: kept,
    transport,
    resume: true, // an answer that was still coming when the page was left goes on
    throttle: 30, // milliseconds: a token is not worth a rendering of its own
  });
  const [input, setInput] = useState("");
  const running = status === "submitted" || status === "streaming";

  // Not at every token: the part of an answer that was there comes again when the page comes back.
  useEffect(() => {
    if (status !== "streaming") keep(id, messages);
  }, [id, messages, status, keep]);

  function send(event: FormEvent) {
    event.preventDefault();
    if (running || !input.trim()) return;
    sendMessage({ text: input });
    setInput("");
  }

  // `stop()` alone only leaves, and an answer that can be resumed goes on for a while without a reader.
  async function halt() {
    const url = `/api/chat/${encodeURIComponent(id)}/stream`;
    const told = await fetch(url, { method: "DELETE", signal: AbortSignal.timeout(2000) }).catch(() => undefined);
    // 202: its end is on the way, behind the last of its text. Not reached, it ends when nobody comes back for it.
    if (told?.status !== 202) await stop();
  }

  return (
    <>
      <ol aria-label="Conversation" aria-busy={running} data-status={status}>
        {messages.map((message) => (
          <li key={message.id} data-role={message.role}>
            {message.parts.map((part, at) => (
              <PartOf key={at} part={part} />
            ))}
          </li>
        ))}
      </ol>
      {error && (
        <p role="alert">
          {wordsOf(error)} <button onClick={lost(error) ? () => resumeStream() : () => regenerate()}>Try again</button>
        </p>
      )}
      <form onSubmit={send}>
        <textarea aria-label="Your message" value={input} onChange={(event) => setInput(event.target.value)} />
        {running ? (
          <button type="button" onClick={halt}>
            Stop
          </button>
        ) : (
          <button>Send</button>
        )}
        <button type="button" onClick={renew} disabled={running}>
          New chat
        </button>
      </form>
    </>
  );
}

function PartOf({ part }: { part: Part }) {
  if (isToolUIPart(part)) return <ToolCall part={part} />;
  switch (part.type) {
    case "text":
      return <p>{part.text}</p>;
    case "reasoning":
      return (
        <details>
          <summary>Thoughts</summary>
          <p>{part.text}</p>
        </details>
      );
    case "source-url":
      return (
        <p>
          <a href={part.url}>{part.title ?? part.url}</a>
        </p>
      );
    default:
      return null;
  }
}

const DOING = {
  "input-streaming": "is being called",
  "input-available": "is running",
  "output-available": "has answered",
  "output-error": "has failed",
};

function ToolCall({ part }: { part: Extract<Part, { toolCallId: string }> }) {
  return (
    <details data-tool={getToolName(part)} data-state={part.state}>
      <summary>
        {getToolName(part)} {DOING[part.state as keyof typeof DOING] ?? part.state}
      </summary>
      {part.input !== undefined && <pre>{JSON.stringify(part.input, null, 2)}</pre>}
      {part.state === "output-available" && <pre>{JSON.stringify(part.output, null, 2)}</pre>}
      {part.state === "output-error" && <p>{part.errorText}</p>}
    </details>
  );
}

// What `fetch` throws: the answer may well go on at the server, and need not be asked for anew.
const lost = (error: Error): boolean => error instanceof TypeError;

function wordsOf(error: Error): string {
  if (lost(error)) return "The connection was lost.";
  try {
    // The AI SDK hands over the body of a refusal, which is JSON of Sluiceway's. An error in the middle of an answer is
    // words already.
    const { error: told } = JSON.parse(error.message) as { error: { message: string } };
    return told.message;
  } catch {
    return error.message;
  }
}
