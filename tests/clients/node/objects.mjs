// JSON while it grows: as a part of the AI SDK's message, and as a custom event of AG-UI's.

import { HttpAgent } from "@ag-ui/client";
import { Chat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";

import { errorOf, main } from "./driver.mjs";

function chatOf(job, seen) {
  Object.assign(seen, { shown: [], data: [] });
  const transport = new DefaultChatTransport({
    api: `${job.url}/api/chat`,
    body: { model: job.model, response_format: job.schema },
  });
  const onData = (part) => seen.data.push(structuredClone(part)); // what it has told it changes later
  const chat = new Chat({ id: job.chat, transport, messages: job.messages ?? [], onData });
  chat["~registerMessagesCallback"](() => {
    const parts = chat.lastMessage?.parts.filter(({ type }) => type === "data-object") ?? [];
    if (parts.length) seen.shown.push(structuredClone(parts.map(({ data }) => data)));
  });
  return chat;
}

function shows(chat, seen) {
  seen.messages = chat.messages;
  seen.status = chat.status;
  if (chat.error) seen.error = errorOf(chat.error);
}

// Asks, and then for more: the object goes back with the conversation.
async function twice(job, seen) {
  const chat = chatOf(job, seen);
  await chat.sendMessage({ text: job.text });
  if (!chat.error) await chat.sendMessage({ text: job.text });
  shows(chat, seen);
}

async function resume(job, seen) {
  const chat = chatOf(job, seen);
  await chat.resumeStream();
  shows(chat, seen);
}

async function agUi(job, seen) {
  seen.shown = [];
  const agent = new HttpAgent({ url: `${job.url}/agui`, threadId: job.id });
  agent.messages = [{ id: "asked", role: "user", content: job.text }];
  const forwardedProps = { model: job.model, response_format: job.schema };
  await agent.runAgent(
    { forwardedProps },
    {
      onCustomEvent: ({ event }) => void seen.shown.push([event.name, event.value]),
      onRunErrorEvent: ({ event }) => void (seen.error = { message: event.message, code: event.code }),
      onRunFinishedEvent: ({ event }) => void (seen.finish = event.result?.finishReason ?? null),
    },
  );
  seen.text = agent.messages
    .filter(({ role }) => role === "assistant")
    .map(({ content }) => content)
    .join("");
}

await main({ twice, resume, agUi });
