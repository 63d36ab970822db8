// Tools that the service runs, as chat front ends show them; and another question in the same conversation.

import { HttpAgent } from "@ag-ui/client";
import { Chat } from "@ai-sdk/react";
import { DefaultChatTransport, lastAssistantMessageIsCompleteWithToolCalls } from "ai";

import { main, PROMPT } from "./driver.mjs";

// `states`: what the tool parts went through, each state once.
async function useChat(job, seen) {
  seen.states = [];
  seen.sent = 0;
  const chat = new Chat({
    id: job.chat,
    transport: new DefaultChatTransport({
      api: `${job.url}/api/chat`,
      body: { model: job.model, tools: job.tools },
    }),
    onToolCall: ({ toolCall }) => void seen.calls.push([toolCall.toolCallId, toolCall.toolName, toolCall.input]),
    onFinish: ({ finishReason }) => (seen.finish = finishReason ?? null),
    sendAutomaticallyWhen: ({ messages }) => {
      const again = lastAssistantMessageIsCompleteWithToolCalls({ messages });
      seen.sent += again;
      return again;
    },
  });
  chat["~registerMessagesCallback"](() => {
    for (const { type, toolCallId, state } of chat.lastMessage?.parts ?? []) {
      if (!toolCallId) continue;
      const told = `${type} ${toolCallId} ${state}`;
      if (!seen.states.includes(told)) seen.states.push(told);
    }
  });
  await chat.sendMessage({ text: PROMPT });
  seen.first = structuredClone(chat.messages);
  await chat.sendMessage({ text: PROMPT });
  seen.messages = chat.messages;
  seen.status = chat.status;
  if (chat.error) seen.told(chat.error.name, chat.error.message);
}

async function agui(job, seen) {
  const agent = new HttpAgent({ url: `${job.url}/agui`, threadId: job.chat });
  agent.messages = [{ id: "asked", role: "user", content: PROMPT }];
  seen.events = [];
  const about = { forwardedProps: { model: job.model, tools: job.tools } };
  const look = {
    onEvent: ({ event }) => void seen.events.push(event.type),
    onRunErrorEvent: ({ event }) => seen.told(event.type, event.message),
  };
  await agent.runAgent(about, look);
  seen.first = structuredClone(agent.messages);
  agent.messages.push({ id: "again", role: "user", content: PROMPT });
  await agent.runAgent(about, look);
  seen.messages = agent.messages;
}

await main({ useChat, agui });
