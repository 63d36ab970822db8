// How fast an answer comes. No clock of its own: whoever calls says when (milliseconds).
//
// While it runs, a token is a text or reasoning event: exact for servers that send one a token, and the only thing
// known yet. The rate is counted from the first token on, so that waiting does not dilute it: n tokens have n - 1 gaps.
// At the end the provider's own count takes over, over the same span.

export class Meter {
  #sentMs;
  #firstMs = null;
  #lastMs = null;
  #tokens = 0;
  #counted = false; // by the provider, not by events or by an estimate

  constructor(nowMs) {
    this.#sentMs = nowMs;
  }

  /** As plain data, of which `Meter.of` makes the same again. */
  get kept() {
    return [this.#sentMs, this.#firstMs, this.#lastMs, this.#tokens, this.#counted];
  }

  static of(kept) {
    const meter = new Meter();
    [meter.#sentMs, meter.#firstMs, meter.#lastMs, meter.#tokens, meter.#counted] = kept;
    return meter;
  }

  token(nowMs) {
    this.#firstMs ??= nowMs;
    this.#lastMs = nowMs;
    this.#tokens += 1;
  }

  usage({ output_tokens, source }) {
    if (!Number.isFinite(output_tokens)) return;
    this.#tokens = output_tokens;
    this.#counted = source !== "estimated";
  }

  /** @returns {{ttftMs: ?number, tokensPerS: ?number, tokens: number, counted: boolean, elapsedS: number}} */
  at(nowMs) {
    const spanS = (this.#lastMs - this.#firstMs) / 1000;
    return {
      ttftMs: this.#firstMs === null ? null : this.#firstMs - this.#sentMs,
      // A burst is not a rate: under 50 ms the clock measures the network's packing.
      tokensPerS: this.#tokens > 1 && spanS >= 0.05 ? (this.#tokens - 1) / spanS : null,
      tokens: this.#tokens,
      counted: this.#counted,
      elapsedS: (nowMs - this.#sentMs) / 1000,
    };
  }
}
