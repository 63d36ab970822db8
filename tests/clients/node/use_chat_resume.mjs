// The AI SDK's `Chat`, and the hook `useChat` around it, whose answer is gone on with by another page.

import { execFile } from "node:child_process";
import { setImmediate } from "node:timers/promises";
import { promisify } from "node:util";

import { Chat, useChat } from "@ai-sdk/react";
import { DefaultChatTransport, lastAssistantMessageIsCompleteWithToolCalls } from "ai";

import { main, PROMPT } from "./driver.mjs";
import { mounted } from "./headless.mjs";

const optionsOf = (job, seen) => ({
  id: job.chat,
  messages: job.messages,
  transport: new DefaultChatTransport({
    api: `${job.url}/api/chat`,
    headers: job.key ? { Authorization: `Bearer ${job.key}` } : {},
    body: { model: job.model },
    fetch: async (url, init) => {
      const response = await fetch(url, init);
      seen.asked.push([init?.method ?? "GET", response.status]);
      return response;
    },
  }),
  onFinish: ({ isAbort, finishReason }) => seen.finished.push([isAbort, finishReason ?? null]),
  onToolCall: ({ toolCall }) => void seen.tools.push(toolCall.toolCallId),
  sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
});

function chatOf(job, seen) {
  Object.assign(seen, { asked: [], finished: [], statuses: [], tools: [] });
  const chat = new Chat(optionsOf(job, seen));
  chat["~registerStatusCallback"](() => seen.statuses.push(chat.status));
  return chat;
}

const textOf = (message) =>
  message?.role === "assistant"
    ? message.parts
        .filter(({ type }) => type === "text")
        .map(({ text }) => text)
        .join("")
    : "";

// Until so many characters of text are there, or for ever.
function reached(chat, length) {
  return new Promise((resolve) => {
    const look = () => textOf(chat.lastMessage).length >= length && resolve();
    chat["~registerMessagesCallback"](look);
    look();
  });
}

function shows(chat, seen) {
  seen.messages = chat.messages;
  seen.status = chat.status;
  if (chat.error) seen.told(chat.error.name, chat.error.message);
}

// Asks, and is killed in the middle of the answer: what it shows by then is told while it still reads.
async function begin(job, seen) {
  const chat = chatOf(job, seen);
  chat.sendMessage({ text: PROMPT });
  await reached(chat, job.chars);
  shows(chat, seen);
}

async function whole(job, seen) {
  const chat = chatOf(job, seen);
  await chat.sendMessage({ text: PROMPT });
  shows(chat, seen);
}

async function resume(job, seen) {
  const chat = chatOf(job, seen);
  await chat.resumeStream();
  shows(chat, seen);
}

// `useChat({resume: true})`, as a page mounts it.
async function hook(job, seen) {
  Object.assign(seen, { asked: [], finished: [], statuses: [], tools: [] });
  const page = mounted(() => useChat({ ...optionsOf(job, seen), resume: true }));
  while (!seen.asked.length || page.current.status !== "ready") {
    if (page.current.status === "error") break;
    await setImmediate();
  }
  seen.messages = page.current.messages;
  seen.status = page.current.status;
  if (page.current.error) seen.told(page.current.error.name, page.current.error.message);
  page.unmount();
}

// In the middle of the answer somebody else stops it.
async function stopped(job, seen) {
  const chat = chatOf(job, seen);
  const answered = chat.sendMessage({ text: PROMPT });
  await reached(chat, job.chars);
  const url = `${job.url}/api/chat/${encodeURIComponent(job.chat)}/stream`;
  const { stdout } = await promisify(execFile)("curl", ["--silent", "--fail", "--request", "DELETE", url]);
  seen.stop = JSON.parse(stdout);
  await answered;
  shows(chat, seen);
}

// A turn of two steps: the page answers the calls itself, which goes on with the same message, and is killed in that, or
// reads it to its end. `outputs`: of the calls, one after the other.
async function tools(job, seen) {
  const chat = chatOf(job, seen);
  await chat.sendMessage({ text: PROMPT });
  const calls = chat.lastMessage.parts.filter(({ toolCallId }) => toolCallId);
  calls.forEach(({ type, toolCallId }, at) =>
    chat.addToolOutput({ tool: type.slice("tool-".length), toolCallId, ...job.outputs[at % job.outputs.length] }),
  );
  if (job.chars === null) while (seen.finished.length < 2) await setImmediate();
  else await reached(chat, job.chars);
  shows(chat, seen);
}

// What is on the page already is gone on with.
async function more(job, seen) {
  const chat = chatOf(job, seen);
  await chat.sendMessage();
  shows(chat, seen);
}

await main({ begin, whole, resume, hook, stopped, tools, more });
