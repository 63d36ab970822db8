// The conversation: its turns, and what the page shows of them.
//
// It lives in this page only. Every question is sent with the turns before it that got an answer, a partial one too:
// the reader has seen it. A turn without a word of answer (refused, unreachable) is left out; "Try again" asks it anew.
//
// An answer is waiting, thinking, answering, and then one of whole, stopped or broken. Only `finish` makes it whole.
// Screen readers hear these states once each through `announce`; the text itself is not live, or every token would be
// read out on its own.

import { MarkdownView } from "./markdown.js";
import { Meter } from "./meter.js";
import { streamAnswer } from "./stream.js";

const RUNNING = { waiting: "Waiting for the first token", thinking: "Thinking", answering: "Answering" };

// What a finish reason means to the reader; `stop` needs no words.
const ENDINGS = {
  length: "Cut at the token limit.",
  content_filter: "Ended by the provider’s content filter.",
  tool_calls: "The model asked for a tool, and this page has none to give.",
  cancelled: "The server stopped this answer; it is incomplete.",
};

const ADVICE = {
  context_length_exceeded: "Start a new chat to begin with an empty history.",
};

export class Conversation {
  #root;
  #template;
  #model;
  #hooks;
  #turns = [];
  #run = null; // { turn, stop }

  /**
   * @param {HTMLElement} root where the turns go
   * @param {HTMLTemplateElement} template one turn
   * @param {() => string} model the chosen one; "" leaves it to the server
   * @param {{announce(text: string), changed(), keyWanted()}} hooks
   */
  constructor(root, template, model, hooks) {
    this.#root = root;
    this.#template = template;
    this.#model = model;
    this.#hooks = hooks;
  }

  get running() {
    return this.#run !== null;
  }

  get empty() {
    return this.#turns.length === 0;
  }

  /** The Markdown of the answer in a turn's element. */
  answerIn(node) {
    return this.#turns.find((turn) => turn.node === node)?.answer ?? "";
  }

  ask(question) {
    const turn = new Turn(this.#template.content.cloneNode(true).firstElementChild, question, this.#hooks);
    this.#turns.push(turn);
    this.#root.append(turn.node);
    return this.#answer(turn);
  }

  /** Asks the last question again; its new answer takes the place of the old one. */
  again() {
    if (!this.running && !this.empty) return this.#answer(this.#turns.at(-1));
  }

  stop() {
    this.#run?.stop.abort();
  }

  clear() {
    this.stop();
    this.#run = null;
    this.#turns = [];
    this.#root.replaceChildren();
    this.#hooks.changed();
  }

  async #answer(turn) {
    const run = { turn, stop: new AbortController() };
    this.#run = run;
    for (const other of this.#turns) other.last = other === turn;
    const model = this.#model();
    const messages = this.#turns.filter((other) => other !== turn && other.answer).flatMap((other) => other.messages);
    messages.push({ role: "user", content: turn.question });

    turn.begin(model);
    this.#hooks.changed();
    const ticking = setInterval(() => turn.tick(), 100);
    try {
      for await (const event of streamAnswer({ ...(model && { model }), messages }, run.stop.signal)) turn.take(event);
    } catch (error) {
      if (this.#run !== run) return; // the chat was cleared meanwhile
      if (run.stop.signal.aborted) turn.stop();
      else turn.fail(error);
      if (error.status === 401) this.#hooks.keyWanted();
    } finally {
      clearInterval(ticking);
      if (this.#run === run) {
        this.#run = null;
        this.#hooks.changed();
      }
    }
  }
}

class Turn {
  #parts = {};
  #view;
  #meter;
  #tools;
  #hooks;
  #countdown = 0;

  constructor(node, question, hooks) {
    this.node = node;
    this.question = question;
    this.#hooks = hooks;
    for (const part of node.querySelectorAll("[data-part]")) this.#parts[part.dataset.part] = part;
    this.#parts.question.textContent = question;
  }

  get answer() {
    return this.#view?.source ?? "";
  }

  get messages() {
    return [
      { role: "user", content: this.question },
      { role: "assistant", content: this.answer },
    ];
  }

  /** Only the last turn can be tried again: the later ones stand on its answer. */
  set last(is) {
    this.node.classList.toggle("last", is);
  }

  begin(model) {
    clearInterval(this.#countdown);
    const { text, thoughts, thinking, tools, notice, model: label, copy, again } = this.#parts;
    text.replaceChildren();
    thinking.textContent = "";
    tools.replaceChildren();
    for (const part of [thoughts, notice, copy, again]) part.hidden = true;
    label.textContent = model;
    this.#view = new MarkdownView(text);
    this.#meter = new Meter(performance.now());
    this.#tools = new Map();
    this.#state("waiting");
  }

  take(event) {
    switch (event.type) {
      case "start":
        this.#parts.model.textContent = `${event.provider}/${event.model}`;
        break;
      case "text":
        this.#meter.token(performance.now());
        this.#state("answering");
        this.#view.push(event.text);
        break;
      case "reasoning":
        this.#meter.token(performance.now());
        if (!this.answer) this.#state("thinking");
        this.#parts.thoughts.hidden = false;
        this.#parts.thinking.append(event.text);
        break;
      case "tool_call_start":
        this.#tool(event);
        break;
      case "tool_call":
        this.#tool(event).args.textContent = pretty(event.arguments);
        break;
      case "tool_result":
        this.#tool(event).result.textContent = pretty(event.error ?? event.result);
        break;
      case "recovered":
        this.#recovered(event);
        break;
      case "usage":
        this.#meter.usage(event);
        break;
      case "finish":
        if (event.usage) this.#meter.usage(event.usage);
        if (event.reason === "cancelled") this.#end("broken", ENDINGS.cancelled);
        else this.#end("whole", ENDINGS[event.reason]);
        break;
      // The union grows; an event this page does not know changes nothing in the text it shows.
    }
  }

  stop() {
    this.#end("stopped", "Stopped.");
  }

  fail(error) {
    const known = error.name === "AnswerError"; // anything else is a defect of this page
    if (!known) console.error(error);
    let words = known ? error.message : "This page failed to read the answer. Reload it and try again.";
    if (this.answer && !words.includes("incomplete")) words = `The answer is incomplete. ${words}`;
    if (ADVICE[error.code]) words += ` ${ADVICE[error.code]}`;
    this.#end("broken", words);

    say(this.#parts.code, [error.code, error.requestId && `request ${error.requestId}`].filter(Boolean).join(" · "));
    if (error.retryAfterS) this.#countDown(error.retryAfterS);
  }

  tick() {
    const { ttftMs, tokensPerS, tokens, counted, elapsedS } = this.#meter.at(performance.now());
    const { ttft, rate, tokens: count, elapsed } = this.#parts;
    say(ttft, ttftMs === null ? "" : `first token ${ttftMs < 9999 ? `${ttftMs.toFixed()} ms` : seconds(ttftMs / 1000)}`);
    say(rate, tokensPerS === null ? "" : `${tokensPerS.toFixed(tokensPerS < 100 ? 1 : 0)} tokens/s`);
    say(count, tokens ? `${counted || this.#running ? "" : "about "}${tokens} token${tokens === 1 ? "" : "s"}` : "");
    say(elapsed, tokens || this.#running ? seconds(elapsedS) : "");
  }

  get #running() {
    return this.node.dataset.state in RUNNING;
  }

  #state(state) {
    if (this.node.dataset.state === state) return;
    this.node.dataset.state = state;
    this.#parts.answer.setAttribute("aria-busy", this.#running);
    say(this.#parts.state, RUNNING[state] ?? "");
    if (this.#running) this.#hooks.announce(RUNNING[state]);
    this.tick();
  }

  #end(state, words = "") {
    this.#view.finish();
    this.#state(state);
    const { notice, words: said, wait, code, copy, again } = this.#parts;
    said.textContent = words;
    wait.textContent = code.textContent = "";
    notice.hidden = !words;
    copy.hidden = !this.answer;
    again.hidden = state === "whole";
    this.#hooks.announce(words || "The answer is complete.");
  }

  #countDown(leftS) {
    const show = () => {
      this.#parts.wait.textContent = leftS > 0 ? `Try again in ${leftS} s.` : "You can try again now.";
      if (leftS-- <= 0) clearInterval(this.#countdown);
    };
    show();
    this.#countdown = setInterval(show, 1000);
  }

  #recovered({ from, to, kept_chars: kept }) {
    // The server counts characters, JavaScript UTF-16 units: an emoji would be cut in half.
    const characters = Array.from(this.answer);
    if (kept < characters.length) this.#view.restart(characters.slice(0, kept).join(""));
    if (to) this.#parts.model.textContent = to;
    this.#hooks.announce(`${from ?? "The model"} broke off; ${to ?? "another one"} goes on.`);
  }

  #tool({ call_id: id, name }) {
    let entry = this.#tools.get(id);
    if (!entry) {
      const parts = ["details", "summary", "pre", "pre"].map((tag) => document.createElement(tag));
      const [details, summary, args, result] = parts;
      summary.textContent = `Tool ${name}`;
      details.append(summary, args, result);
      this.#parts.tools.append(details);
      entry = { args, result };
      this.#tools.set(id, entry);
    }
    return entry;
  }
}

/** Sets text only where it differs: an unchanged node costs no layout. */
function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function seconds(s) {
  return s < 60 ? `${s.toFixed(1)} s` : `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
}

function pretty(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}
