import Link from "next/link";

import { ChatOfThisTab } from "./chat-of-this-tab";

export default function Page() {
  return (
    <>
      <h1>Chat</h1>
      <ChatOfThisTab />
      <p>
        <Link href="/summary">A server action that streams</Link>
      </p>
    </>
  );
}
