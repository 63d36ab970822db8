import Link from "next/link";

import { Summary } from "./summary";

export default function Page() {
  return (
    <>
      <h1>Summary</h1>
      <Summary />
      <p>
        <Link href="/">Chat</Link>
      </p>
    </>
  );
}
