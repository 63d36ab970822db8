// AG-UI's HttpAgent: `POST /agui`.

import { HttpAgent } from "@ag-ui/client";

import { errorOf, main, PROMPT } from "./driver.mjs";

async function run(job, seen) {
  const agent = new HttpAgent({
    url: `${job.url}/agui`,
    threadId: job.id,
    headers: { Authorization: `Bearer ${job.key}` },
  });
  agent.messages = [{ id: "asked", role: "user", content: PROMPT }];
  const parameters = { tools: job.tools, forwardedProps: { model: job.model } };
  await agent.runAgent(parameters, {
    onTextMessageContentEvent({ event }) {
      if (seen.says(event.delta)) agent.abortRun();
    },
    onReasoningMessageContentEvent({ event }) {
      seen.reasoning += event.delta;
    },
    onRunErrorEvent({ event }) {
      if (!seen.left) seen.told(event.type, event.message, { code: event.code ?? null }); // it calls its own leaving one
    },
    onRunFinishedEvent({ event }) {
      seen.finish = event.result?.finishReason ?? null;
      seen.counted(event.usage?.[0], ["inputTokens", "outputTokens"]);
    },
    onRunFailed({ error }) {
      if (!seen.left) seen.error ??= errorOf(error);
    },
  });
  const answer = agent.messages.filter(({ role }) => role === "assistant");
  seen.whole(answer.map(({ content }) => content ?? "").join(""));
  for (const { toolCalls } of answer)
    for (const call of toolCalls ?? []) seen.called(call.id, call.function.name, call.function.arguments);
}

await main({ run });
