// The AI SDK: `streamText` and `generateText` through its providers, and `useChat` without a page (`Chat` is the class
// behind the hook).

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Chat } from "@ai-sdk/react";
import { DefaultChatTransport, generateText, jsonSchema, streamText, tool } from "ai";

import { errorOf, main, PROMPT } from "./driver.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;

const USAGE = ["inputTokens", "outputTokens"];

const PROVIDERS = {
  openai_chat: (job) => createOpenAI({ baseURL: `${job.url}/v1`, apiKey: job.key }).chat(job.model),
  openai_responses: (job) => createOpenAI({ baseURL: `${job.url}/v1`, apiKey: job.key }).responses(job.model),
  openai_compatible: (job) =>
    createOpenAICompatible({ name: "sluiceway", baseURL: `${job.url}/v1`, apiKey: job.key, includeUsage: true })(
      job.model,
    ),
  anthropic: (job) => createAnthropic({ baseURL: `${job.url}/v1`, apiKey: job.key })(job.model),
};

function asked(provider, job, controller) {
  const tools = job.tools.map(({ name, description, parameters }) => [
    name,
    tool({ description, inputSchema: jsonSchema(parameters) }),
  ]);
  return {
    model: PROVIDERS[provider](job),
    prompt: PROMPT,
    maxRetries: job.retries,
    abortSignal: controller.signal,
    ...(tools.length && { tools: Object.fromEntries(tools) }),
  };
}

const text = (provider) => async (job, seen) => {
  const controller = new AbortController();
  if (job.whole) {
    const answer = await generateText(asked(provider, job, controller));
    seen.says(answer.text);
    seen.reasoning = answer.reasoningText ?? "";
    seen.finish = answer.finishReason;
    seen.counted(answer.usage, USAGE);
    return;
  }
  const { stream } = streamText({ ...asked(provider, job, controller), onError() {} });
  for await (const part of stream) {
    switch (part.type) {
      case "text-delta":
        if (seen.says(part.text)) return controller.abort();
        break;
      case "reasoning-delta":
        seen.reasoning += part.text;
        break;
      case "tool-call":
        if (part.invalid) throw part.error;
        seen.called(part.toolCallId, part.toolName, part.input);
        break;
      case "finish":
        seen.finish = part.finishReason;
        seen.counted(part.totalUsage, USAGE);
        break;
      case "error":
        seen.error ??= errorOf(part.error);
    }
  }
};

// It never rejects: `status` and `error` are what its user sees.
async function useChat(job, seen) {
  const transport = new DefaultChatTransport({
    api: `${job.url}/api/chat`,
    headers: { Authorization: `Bearer ${job.key}` },
    // Leaving ends an answer at once only where nobody may come back to it.
    body: { model: job.model, ...(job.leave_after !== null && { resumable: false }) },
  });
  const onFinish = ({ finishReason }) => (seen.finish = finishReason ?? null);
  const chat = new Chat({ id: job.id, transport, onFinish });
  let shown = "";
  const unsubscribe = chat["~registerMessagesCallback"](() => {
    const now = joined(chat.lastMessage, "text");
    if (seen.says(now.slice(shown.length))) chat.stop();
    shown = now;
  });
  await chat.sendMessage({ text: PROMPT });
  unsubscribe();
  const answer = chat.lastMessage;
  seen.text = joined(answer, "text");
  seen.reasoning = joined(answer, "reasoning");
  for (const part of answer.role === "assistant" ? answer.parts : [])
    if (part.toolCallId) seen.called(part.toolCallId, part.toolName ?? part.type.slice("tool-".length), part.input);
  seen.counted(answer.metadata?.usage, USAGE);
  if (chat.status === "error") seen.error = errorOf(chat.error);
}

const joined = (message, type) =>
  message.role === "assistant"
    ? message.parts
        .filter((part) => part.type === type)
        .map((part) => part.text)
        .join("")
    : "";

await main({
  ...Object.fromEntries(Object.keys(PROVIDERS).map((provider) => [provider, text(provider)])),
  use_chat: useChat,
});
