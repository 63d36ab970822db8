// The conversation: its turns, and what the page shows of them.
//
// It lives in this tab only, which keeps it for a reload (history.js). Every question is sent with the turns before it
// that got an answer, a partial one too: the reader has seen it. A turn without a word of answer (refused, unreachable)
// is left out; "Try again" asks it anew.
//
// An answer is waiting, thinking, answering or reconnecting, and then one of whole, stopped or broken. Only `finish`
// makes it whole. One that was still coming when the page was left is gone on with by the next page.
// Screen readers hear these states once each through `announce`; the text itself is not live, or every token would be
// read out on its own.

import { beginning, canGoOn, nowMs, stopStream, streamAnswer } from "./answer.js";
import { forget, keep, kept } from "./history.js";
import { MarkdownView } from "./markdown.js";
import { Meter } from "./meter.js";

const RUNNING = {
  waiting: "Waiting for the first token",
  thinking: "Thinking",
  answering: "Answering",
  reconnecting: "The connection was lost; reconnecting",
};

const KEEP_EVERY_MS = 1000; // while an answer comes, for the page that ends without `pagehide`

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
    const turn = this.#add(question);
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
    for (const turn of this.#turns) turn.drop();
    this.#run = null;
    this.#turns = [];
    this.#root.replaceChildren();
    forget();
    this.#hooks.changed();
  }

  /** Has the tab keep it. False: it can't. */
  keep() {
    if (this.empty) return false;
    return keep(this.#turns.map((turn) => turn.kept));
  }

  /** Shows what the tab has kept, and goes on with the answer that was still coming. */
  restore() {
    const turns = kept();
    if (!turns) return;
    let coming;
    try {
      for (const turn of turns) this.#add(turn.question).restore(turn);
      for (const turn of this.#turns) {
        if (turn.ended) continue;
        if (canGoOn(turn.place)) coming = turn;
        else turn.interrupt();
      }
    } catch (error) {
      console.warn("What this tab kept can't be read, and is forgotten.", error);
      this.clear();
      return;
    }
    this.#hooks.changed();
    if (!coming) return;
    coming.goOn();
    return this.#listen(coming);
  }

  #add(question) {
    const turn = new Turn(this.#template.content.cloneNode(true).firstElementChild, question, this.#hooks);
    this.#turns.push(turn);
    this.#root.append(turn.node);
    for (const other of this.#turns) other.last = other === turn;
    return turn;
  }

  #answer(turn) {
    turn.drop();
    turn.begin(this.#model(), beginning());
    if (!this.keep()) turn.place.key = ""; // a reload could not go on with it: then leaving should end it
    return this.#listen(turn);
  }

  async #listen(turn) {
    const run = { turn, stop: new AbortController() };
    this.#run = run;
    const { model, place } = turn;
    const messages = this.#turns.filter((other) => other !== turn && other.answer).flatMap((other) => other.messages);
    messages.push({ role: "user", content: turn.question });

    this.#hooks.changed();
    const ticking = setInterval(() => turn.tick(), 100);
    const keeping = setInterval(() => this.keep(), KEEP_EVERY_MS);
    try {
      const body = { ...(model && { model }), messages };
      const events = streamAnswer(body, place, run.stop.signal, () => turn.reconnect());
      for await (const event of events) turn.take(event);
    } catch (error) {
      if (this.#run !== run) return; // the chat was cleared meanwhile
      if (run.stop.signal.aborted) turn.stop();
      else turn.fail(error);
      if (error.status === 401) this.#hooks.keyWanted();
    } finally {
      clearInterval(ticking);
      clearInterval(keeping);
      if (this.#run === run) {
        this.#run = null;
        this.keep();
        this.#hooks.changed();
      }
    }
  }
}

// What a turn is made of again; its end is kept beside.
const TOOLS = ["tool_call_start", "tool_call", "tool_result"];
const KEPT = new Set(["start", "text", "reasoning", ...TOOLS, "recovered", "usage"]);

class Turn {
  #parts = {};
  #view;
  #meter;
  #tools;
  #events; // what was taken, with the text of those in a row in one
  #hooks;
  #quiet = false;
  #countdown = 0;

  model = ""; // as asked for; "" leaves it to the server
  place = null; // of answer.js
  ended = null; // { state, words, code, atMs }

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

  /** Plain data, of which `restore` makes the same again. */
  get kept() {
    const { question, model, place, ended } = this;
    return { question, model, place, ended, events: this.#events, meter: this.#meter.kept };
  }

  restore({ model, place, ended, events, meter }) {
    this.#quiet = true;
    this.begin(model, place);
    for (const event of events) this.take(event);
    this.#meter = Meter.of(meter);
    if (ended) this.#end(ended.state, ended.words, ended.code, ended.atMs);
    this.tick();
    this.#quiet = false;
  }

  begin(model, place) {
    clearInterval(this.#countdown);
    Object.assign(this, { model, place, ended: null });
    this.#events = [];
    const { text, thoughts, thinking, tools, notice, model: label, copy, again } = this.#parts;
    text.replaceChildren();
    thinking.textContent = "";
    tools.replaceChildren();
    for (const part of [thoughts, notice, copy, again]) part.hidden = true;
    label.textContent = model;
    this.#view = new MarkdownView(text);
    this.#meter = new Meter(nowMs());
    this.#tools = new Map();
    this.#state("waiting");
  }

  /** After `restore`: more of it will come. */
  goOn() {
    this.#announce(RUNNING[this.node.dataset.state]);
  }

  /** Ends what may still be running of it at the server. */
  drop() {
    if (this.place) stopStream(this.place);
  }

  take(event) {
    if (this.node.dataset.state === "reconnecting") this.#state(this.#phase);
    this.#remember(event);
    switch (event.type) {
      case "start":
        this.#parts.model.textContent = `${event.provider}/${event.model}`;
        break;
      case "text":
        this.#meter.token(nowMs());
        this.#state("answering");
        this.#view.push(event.text);
        break;
      case "reasoning":
        this.#meter.token(nowMs());
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

  reconnect() {
    this.#state("reconnecting");
  }

  stop() {
    this.#end("stopped", "Stopped.");
  }

  /** The page was left, and nothing is there to go on with. */
  interrupt() {
    this.#end("broken", "The page was left before this answer was whole; the answer is incomplete.");
  }

  fail(error) {
    const known = error.name === "AnswerError"; // anything else is a defect of this page
    if (!known) console.error(error);
    let words = known ? error.message : "This page failed to read the answer. Reload it and try again.";
    if (this.answer && !words.includes("incomplete")) words = `The answer is incomplete. ${words}`;
    if (ADVICE[error.code]) words += ` ${ADVICE[error.code]}`;
    const named = [error.code, error.requestId && `request ${error.requestId}`];
    this.#end("broken", words, named.filter(Boolean).join(" · "));
    if (error.retryAfterS) this.#countDown(error.retryAfterS);
  }

  tick() {
    const { ttftMs, tokensPerS, tokens, counted, elapsedS } = this.#meter.at(this.ended?.atMs ?? nowMs());
    const { ttft, rate, tokens: count, elapsed } = this.#parts;
    say(ttft, ttftMs === null ? "" : `first token ${ttftMs < 9999 ? `${ttftMs.toFixed()} ms` : seconds(ttftMs / 1000)}`);
    say(rate, tokensPerS === null ? "" : `${tokensPerS.toFixed(tokensPerS < 100 ? 1 : 0)} tokens/s`);
    say(count, tokens ? `${counted || this.#running ? "" : "about "}${tokens} token${tokens === 1 ? "" : "s"}` : "");
    say(elapsed, tokens || this.#running ? seconds(elapsedS) : "");
  }

  get #running() {
    return this.node.dataset.state in RUNNING;
  }

  get #phase() {
    if (this.answer) return "answering";
    return this.#parts.thinking.textContent ? "thinking" : "waiting";
  }

  #announce(text) {
    if (!this.#quiet) this.#hooks.announce(text);
  }

  #remember(event) {
    const before = this.#events.at(-1);
    if (event.text !== undefined && before?.type === event.type) before.text += event.text;
    else if (KEPT.has(event.type)) this.#events.push({ ...event });
  }

  #state(state) {
    if (this.node.dataset.state === state) return;
    this.node.dataset.state = state;
    this.#parts.answer.setAttribute("aria-busy", this.#running);
    say(this.#parts.state, RUNNING[state] ?? "");
    if (this.#running) this.#announce(RUNNING[state]);
    this.tick();
  }

  #end(state, words = "", code = "", atMs = nowMs()) {
    this.ended = { state, words, code, atMs };
    this.#view.finish();
    this.#state(state);
    const { notice, words: said, wait, code: named, copy, again } = this.#parts;
    said.textContent = words;
    named.textContent = code;
    wait.textContent = "";
    notice.hidden = !words;
    copy.hidden = !this.answer;
    again.hidden = state === "whole";
    this.#announce(words || "The answer is complete.");
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
    this.#announce(`${from ?? "The model"} broke off; ${to ?? "another one"} goes on.`);
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
