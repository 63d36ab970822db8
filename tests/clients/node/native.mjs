// What the service's own events say; ../python/native.py is the same.

// Whether it is time to leave.
export function take(event, seen) {
  switch (event.type) {
    case "text":
      return seen.says(event.text);
    case "reasoning":
      seen.reasoning += event.text;
      break;
    case "tool_call":
      seen.called(event.call_id, event.name, event.arguments);
      break;
    case "usage":
      seen.counted(event, ["input_tokens", "output_tokens"]);
      break;
    case "finish":
      seen.finish = event.reason;
      break;
    case "error":
      seen.told("error", event.message, { status: event.status, code: event.code });
  }
  return false;
}

// An error before the first byte, in the shape of all routes without a protocol of their own.
export async function refused(response, seen) {
  const { error } = await response.json();
  const retryAfter = response.headers.get("retry-after");
  seen.told("status", error.message, { status: response.status, code: error.code, retry_after: retryAfter });
}
