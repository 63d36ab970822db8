// @anthropic-ai/sdk: `create` and the `.stream()` helper.

import Anthropic from "@anthropic-ai/sdk";

import { main, MAX_TOKENS, PROMPT, TIMEOUT_MS } from "./driver.mjs";

const USAGE = ["input_tokens", "output_tokens"];

const messagesOf = (job) =>
  new Anthropic({ baseURL: job.url, apiKey: job.key, maxRetries: job.retries, timeout: TIMEOUT_MS }).messages;

function asked(job) {
  const tools = job.tools.map(({ name, description, parameters }) => ({ name, description, input_schema: parameters }));
  const messages = [{ role: "user", content: PROMPT }];
  return { model: job.model, max_tokens: MAX_TOKENS, messages, ...(tools.length && { tools }) };
}

const textOf = (message) => joined(message, "text", "text");

function joined(message, type, name) {
  return message.content
    .filter((block) => block.type === type)
    .map((block) => block[name])
    .join("");
}

function message(final, seen) {
  seen.reasoning = joined(final, "thinking", "thinking");
  for (const block of final.content) if (block.type === "tool_use") seen.called(block.id, block.name, block.input);
  seen.finish = final.stop_reason;
  seen.counted(final.usage, USAGE);
}

async function create(job, seen) {
  if (job.whole) {
    const final = await messagesOf(job).create(asked(job));
    seen.says(textOf(final));
    message(final, seen);
    return;
  }
  const calls = {};
  let input = 0;
  for await (const event of await messagesOf(job).create({ ...asked(job), stream: true })) {
    switch (event.type) {
      case "message_start":
        input = event.message.usage.input_tokens;
        break;
      case "content_block_start":
        if (event.content_block.type === "tool_use")
          calls[event.index] = [event.content_block.id, event.content_block.name, ""];
        break;
      case "content_block_delta":
        if (event.delta.type === "text_delta" && seen.says(event.delta.text)) return;
        if (event.delta.type === "thinking_delta") seen.reasoning += event.delta.thinking;
        if (event.delta.type === "input_json_delta") calls[event.index][2] += event.delta.partial_json;
        break;
      case "message_delta":
        seen.finish = event.delta.stop_reason;
        seen.usage = [event.usage.input_tokens ?? input, event.usage.output_tokens];
    }
  }
  Object.values(calls).forEach((call) => seen.called(...call));
}

async function stream(job, seen) {
  const runner = messagesOf(job).stream(asked(job));
  for await (const event of runner) {
    if (event.type === "content_block_delta" && event.delta.type === "text_delta" && seen.says(event.delta.text)) return;
  }
  const final = await runner.finalMessage();
  seen.whole(textOf(final));
  message(final, seen);
}

await main({ create, stream });
