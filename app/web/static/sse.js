// Server-Sent Events, bytes in and events out.
//
// EventSource cannot POST, so the page reads the body of a fetch itself. Chunks of a body are cut anywhere: inside a
// character, between CR and LF, inside a field name. The parser keeps what is unfinished and gives every event at the
// byte that completes it, never later: a bare CR ends a line at once, and an LF after it is swallowed when it comes.
//
// It follows the WHATWG rules, "9.2.6 Interpreting an event stream" (summary: WIRE.md, section 5). Two of them matter
// here: a block without data is not an event (so heartbeat comments vanish), and an event that the end of the body
// leaves unfinished is dropped, which is why there is no `finish`. Half an event must not look like a whole one.

export class SSEParser {
  // Not fatal and without ignoreBOM: broken bytes become U+FFFD, one leading byte order mark is dropped.
  #decoder = new TextDecoder("utf-8");
  #rest = ""; // the line that has begun
  #afterCR = false;
  #event = "";
  #data = [];
  #id = "";

  /** Milliseconds, if the server has sent a `retry:`; reconnecting is the caller's business. */
  retryMs = null;

  /**
   * @param {Uint8Array} bytes the next chunk, cut anywhere
   * @returns {{event: string, data: string, id: string}[]} the events this chunk completes; `id` is the last one seen
   */
  feed(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (text && this.#afterCR) {
      this.#afterCR = false;
      if (text[0] === "\n") text = text.slice(1);
    }
    const events = [];
    const lineEnd = /\r\n?|\n/g;
    lineEnd.lastIndex = this.#rest.length; // what is kept holds no line end: don't search it again
    const buffer = this.#rest + text;
    let start = 0;
    for (let end; (end = lineEnd.exec(buffer)); start = lineEnd.lastIndex) {
      this.#line(buffer.slice(start, end.index), events);
      this.#afterCR = end[0] === "\r" && lineEnd.lastIndex === buffer.length;
    }
    this.#rest = buffer.slice(start);
    return events;
  }

  #line(line, events) {
    if (line === "") {
      if (this.#data.length) {
        events.push({ event: this.#event || "message", data: this.#data.join("\n"), id: this.#id });
      }
      this.#event = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value[0] === " ") value = value.slice(1); // exactly one
    switch (field) {
      case "data":
        this.#data.push(value);
        break;
      case "event":
        this.#event = value;
        break;
      case "id":
        if (!value.includes("\0")) this.#id = value;
        break;
      case "retry":
        if (/^[0-9]+$/.test(value)) this.retryMs = Number(value);
        break;
      // Any other field is ignored, as the standard asks.
    }
  }
}
