"use client";

import type { UIMessage } from "ai";
import { useEffect, useState } from "react";

import { Chat } from "./chat";

const KEPT = "chat";

type Kept = { id: string; messages: UIMessage[] };

/**
 * The chat that this tab had before it was reloaded, or a new one. An app with users keeps its chats in its database and
 * their ids in its URLs; all that `Chat` needs is an id and the messages so far.
 */
export function ChatOfThisTab() {
  // Not while the server renders, which has no session storage.
  const [chat, setChat] = useState<Kept>();
  useEffect(() => setChat(load()), []);

  return chat && <Chat key={chat.id} id={chat.id} messages={chat.messages} keep={save} renew={() => setChat(begin())} />;
}

function load(): Kept {
  const kept = sessionStorage.getItem(KEPT);
  return kept ? (JSON.parse(kept) as Kept) : begin();
}

function begin(): Kept {
  // Hard to guess: the id is all that one needs to read the answer. (`randomUUID` is missing on plain http.)
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return { id: Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(""), messages: [] };
}

function save(id: string, messages: UIMessage[]) {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ id, messages }));
  } catch {
    // Full: then a reload begins anew.
  }
}
