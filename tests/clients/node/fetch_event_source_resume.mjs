// @microsoft/fetch-event-source with its own ways: after a broken connection it posts again, with `last-event-id`.

globalThis.window = globalThis;
globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
const { fetchEventSource } = await import("@microsoft/fetch-event-source");

import { main, PROMPT } from "./driver.mjs";

async function post(job, seen) {
  Object.assign(seen, { ids: [], asked: [] });
  await fetchEventSource(`${job.url}/v1/streams`, {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": job.idempotency_key },
    body: JSON.stringify({ model: job.model, prompt: PROMPT, resumable: true }),
    fetch: async (url, init) => {
      const response = await fetch(url, init);
      seen.asked.push([init.headers["last-event-id"] ?? null, response.status, response.headers.get("location")]);
      return response;
    },
    onmessage({ data, id }) {
      if (data === "[DONE]") return (seen.done = true), undefined;
      seen.ids.push(Number(id));
      const said = JSON.parse(data);
      if (said.type === "text") seen.says(said.text);
      if (said.type === "finish") seen.finish = said.reason;
    },
    onerror: () => 100, // ms until it asks again; by itself it takes a second
  });
}

await main({ post });
