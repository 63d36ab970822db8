// The package `eventsource`, on `GET /v1/streams/<id>`: it comes back by itself, and stops at 204.

import { EventSource } from "eventsource";

import { main } from "./driver.mjs";

function follow(job, seen) {
  Object.assign(seen, { ids: [], events: [], asked: [], waits: [] });
  let endedAt = 0;
  const source = new EventSource(job.stream_url, {
    fetch: async (url, init) => {
      if (endedAt) seen.waits.push(Date.now() - endedAt);
      const response = await fetch(url, init);
      seen.asked.push([init.headers["Last-Event-ID"] ?? null, response.status]);
      return response;
    },
  });
  source.onmessage = ({ data, lastEventId }) => {
    if (data === "[DONE]") return (seen.events.push(data), undefined);
    seen.ids.push(Number(lastEventId));
    const said = JSON.parse(data);
    seen.events.push(said.type);
    if (said.type === "text") seen.says(said.text);
    if (said.type === "finish") seen.finish = said.reason;
  };
  return new Promise((resolve) => {
    source.onerror = () => {
      endedAt = Date.now();
      if (source.readyState === source.CLOSED) resolve();
    };
  });
}

await main({ follow });
