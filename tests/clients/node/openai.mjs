// openai-node: `create` and the `.stream()` helper, of chat completions and of responses.

import OpenAI from "openai";

import { main, PROMPT, TIMEOUT_MS } from "./driver.mjs";

const CHAT_USAGE = ["prompt_tokens", "completion_tokens"];
const USAGE = ["input_tokens", "output_tokens"];

const clientOf = (job) =>
  new OpenAI({ baseURL: `${job.url}/v1`, apiKey: job.key, maxRetries: job.retries, timeout: TIMEOUT_MS });

function chatAsked(job) {
  const tools = job.tools.map((tool) => ({ type: "function", function: tool }));
  return { model: job.model, messages: [{ role: "user", content: PROMPT }], ...(tools.length && { tools }) };
}

function chatMessage({ message, finish_reason }, seen) {
  seen.says(message.content);
  seen.reasoning = message.reasoning_content ?? "";
  for (const call of message.tool_calls ?? []) seen.called(call.id, call.function.name, call.function.arguments);
  seen.finish = finish_reason;
}

async function chatCreate(job, seen) {
  const completions = clientOf(job).chat.completions;
  if (job.whole) {
    const completion = await completions.create(chatAsked(job));
    chatMessage(completion.choices[0], seen);
    seen.counted(completion.usage, CHAT_USAGE);
    return;
  }
  const calls = [];
  const stream = await completions.create({ ...chatAsked(job), stream: true, stream_options: { include_usage: true } });
  for await (const chunk of stream) {
    seen.counted(chunk.usage, CHAT_USAGE);
    for (const { delta, finish_reason } of chunk.choices) {
      seen.reasoning += delta.reasoning_content ?? "";
      seen.finish = finish_reason ?? seen.finish;
      for (const part of delta.tool_calls ?? []) {
        const call = (calls[part.index] ??= ["", "", ""]);
        [part.id, part.function.name, part.function.arguments].forEach((said, at) => (call[at] += said ?? ""));
      }
      if (seen.says(delta.content || delta.refusal)) return;
    }
  }
  calls.forEach((call) => seen.called(...call));
}

async function chatStream(job, seen) {
  const runner = clientOf(job).chat.completions.stream({
    ...chatAsked(job),
    stream_options: { include_usage: true },
  });
  let reasoning = "";
  for await (const chunk of runner) {
    for (const { delta } of chunk.choices) {
      reasoning += delta.reasoning_content ?? "";
      if (seen.says(delta.content || delta.refusal)) return;
    }
  }
  const final = await runner.finalChatCompletion();
  seen.whole(final.choices[0].message.content || final.choices[0].message.refusal || "");
  chatMessage({ ...final.choices[0], message: { ...final.choices[0].message, content: "", refusal: null } }, seen);
  seen.reasoning = reasoning;
  seen.counted(final.usage, CHAT_USAGE);
}

function responsesAsked(job) {
  const tools = job.tools.map((tool) => ({ type: "function", strict: false, ...tool }));
  return { model: job.model, input: PROMPT, ...(tools.length && { tools }) };
}

function response(final, seen) {
  for (const item of final.output) {
    if (item.type === "function_call") seen.called(item.call_id, item.name, item.arguments);
    if (item.type === "reasoning")
      seen.reasoning = [...item.summary, ...(item.content ?? [])].map((part) => part.text).join("");
  }
  seen.finish = final.incomplete_details?.reason ?? final.status;
  seen.counted(final.usage, USAGE);
}

const SAID = ["response.output_text.delta", "response.refusal.delta"];

const textOf = (final) =>
  final.output
    .flatMap((item) => item.content ?? [])
    .map((part) => (part.type === "refusal" ? part.refusal : part.type === "output_text" ? part.text : ""))
    .join("");

async function responsesCreate(job, seen) {
  const { responses } = clientOf(job);
  if (job.whole) {
    const final = await responses.create(responsesAsked(job));
    seen.says(final.output_text);
    response(final, seen);
    return;
  }
  for await (const event of await responses.create({ ...responsesAsked(job), stream: true })) {
    if (SAID.includes(event.type) && seen.says(event.delta)) return;
    if (["response.completed", "response.incomplete", "response.failed"].includes(event.type)) {
      seen.whole(textOf(event.response));
      response(event.response, seen);
    }
  }
}

async function responsesStream(job, seen) {
  const runner = clientOf(job).responses.stream(responsesAsked(job));
  for await (const event of runner) {
    if (SAID.includes(event.type) && seen.says(event.delta)) return;
  }
  const final = await runner.finalResponse();
  seen.whole(textOf(final));
  response(final, seen);
}

await main({
  chat_create: chatCreate,
  chat_stream: chatStream,
  responses_create: responsesCreate,
  responses_stream: responsesStream,
});
