// EventSource as browsers have it, from the package `eventsource`: `GET /chat`.

import { EventSource } from "eventsource";

import { main, PROMPT } from "./driver.mjs";

function chat(job, seen) {
  const query = new URLSearchParams({ model: job.model, prompt: PROMPT });
  // Its own way to give a key: EventSource takes no headers.
  const source = new EventSource(`${job.url}/chat?${query}`, {
    fetch: (url, init) => fetch(url, { ...init, headers: { ...init.headers, Authorization: `Bearer ${job.key}` } }),
  });
  return new Promise((resolve) => {
    const close = () => {
      source.close(); // it would ask again after every end
      resolve();
    };
    source.onmessage = ({ data }) => {
      if (data === "[DONE]") {
        seen.finish = data;
        close();
      } else if (seen.says(JSON.parse(data).text)) close();
    };
    source.addEventListener("error", (event) => {
      if (event.data) {
        const { message, code } = JSON.parse(event.data); // an event of ours that is named so
        seen.told("error", message, { code });
      } else seen.told(event.constructor.name, event.message, { status: event.code ?? null });
      close();
    });
  });
}

await main({ chat });
