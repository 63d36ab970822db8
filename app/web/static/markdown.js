// Markdown that grows: painted at most once a frame, at a cost that follows the last block and not the answer.
//
// Markdown is made of blocks, and only the last block of a text can still change. So finished blocks are parsed once,
// put into the page and never touched again; what is left, the tail, is parsed anew at every paint and laid over what
// stands there (`morph`), so that selections and scroll positions inside it survive. Two traps:
//
// - "Finished" is decided on whole lines only. In "1. a\n\n2" the 2 is a paragraph until a dot makes it the next item.
// - A link definition, "[name]: address", may come after the paragraph that uses it, or inside another block. Where
//   there could be one, `finish` renders the whole text once more.
//
// With them the rule holds, and a test cuts documents at every position to show it: after `finish` the page shows what
// rendering the whole text at once shows.
//
// The text is written by a model, that is by anyone who could write into its context. Three walls, each enough alone:
// HTML in the source is shown as text; DOMPurify lets only Markdown's own elements pass; the page's CSP runs no inline
// script and loads nothing from elsewhere. Images become links: fetching one would tell its host what was asked.

import DOMPurify from "./vendor/dompurify.js";
import { Lexer, Marked } from "./vendor/marked.js";

const escape = (text) =>
  text.replace(/[<>"']|&(?!(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|\w+);)/g, (c) => `&#${c.charCodeAt(0)};`);

// Models use these where Markdown has no sign for it; they carry no attributes and load nothing.
const HARMLESS = /^<(?:br\s*\/?|\/?(?:sub|sup|kbd|mark|b|i|u|s))>$/i;

const listing = (html) => `<pre><code class="language-html">${escape(html.trimEnd())}</code></pre>\n`;

const marked = new Marked({
  gfm: true,
  renderer: {
    html: ({ text, block }) => (HARMLESS.test(text.trim()) ? text : block ? listing(text) : escape(text)),
    // marked leaves text between raw <script>, <pre> or <code> tags unescaped; here those tags are text themselves.
    text(token) {
      return token.tokens ? this.parser.parseInline(token.tokens) : escape(token.text);
    },
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`,
  },
});

const purify = DOMPurify(window);
const ALLOWED = {
  ALLOWED_TAGS: (
    "p h1 h2 h3 h4 h5 h6 ul ol li blockquote pre code em strong del a br hr table thead tbody tr th td input " +
    "sub sup kbd mark b i u s #text"
  ).split(" "),
  ALLOWED_ATTR: ["href", "title", "start", "align", "class", "type", "checked", "disabled"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i, // a relative address would point into the page's own server
  ADD_URI_SAFE_ATTR: ["align", "start", "type"], // no addresses; without this they would be tested as such
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.nodeName === "A" && node.hasAttribute("href")) {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
  }
  if (node.nodeName !== "CODE") node.removeAttribute("class"); // no text may dress up as a part of the page
});

/** Markdown to nodes, at once. `links` are definitions that stand elsewhere, as marked keeps them. */
export function render(source, links = {}) {
  return paint(lex(source, { ...links }));
}

function lex(source, links) {
  const lexer = new Lexer(marked.defaults);
  lexer.tokens.links = links;
  return lexer.lex(source);
}

/** Tokens to nodes. */
export function paint(tokens) {
  const fragment = document.createDocumentFragment();
  // Block by block: the HTML parser would carry a <b> left open from one paragraph into all that follow.
  for (const token of tokens) fragment.append(purify.sanitize(marked.parser([token]), ALLOWED));
  for (const pre of fragment.querySelectorAll("pre")) pre.replaceWith(codeBlock(pre));
  for (const table of fragment.querySelectorAll("table")) {
    const frame = scrollable(element("div", { class: "table" }), "Table");
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const box of fragment.querySelectorAll("input")) {
    const [name, sign] = box.hasAttribute("checked") ? ["done", "☑"] : ["open", "☐"];
    box.replaceWith(element("span", { class: "task", role: "img", "aria-label": name }, sign));
  }
  return fragment;
}

function codeBlock(pre) {
  const language = /language-(\S+)/.exec(pre.firstElementChild?.className)?.[1] ?? "";
  const copy = element("button", { type: "button", class: "quiet", "data-copy": "code" }, "Copy");
  copy.setAttribute("aria-label", "Copy code");
  const head = element("div", { class: "code-head" }, element("span", {}, language || "text"), copy);
  return element("div", { class: "code" }, head, scrollable(pre.cloneNode(true), "Code"));
}

/** What can scroll sideways must be reachable by keyboard, and a thing with focus needs a name. */
function scrollable(node, name) {
  node.classList.add("scroll");
  for (const [attribute, value] of [["tabindex", "0"], ["role", "group"], ["aria-label", name]]) {
    node.setAttribute(attribute, value);
  }
  return node;
}

function element(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  node.append(...children);
  return node;
}

/** Cuts finished blocks off the front of a growing text. Knows no DOM. */
export class Blocks {
  tail = "";
  links = {};
  #heldCR = false;
  #newLine = false;

  feed(text) {
    if (this.#heldCR) text = "\r" + text;
    this.#heldCR = text.endsWith("\r"); // perhaps half a CRLF
    if (this.#heldCR) text = text.slice(0, -1);
    text = text.replace(/\r\n?/g, "\n");
    this.tail += text;
    this.#newLine ||= text.includes("\n");
  }

  /** The text is over: a CR that was held back is a line end of its own. */
  finish() {
    if (!this.#heldCR) return;
    this.#heldCR = false;
    this.feed("\n");
  }

  /** The tokens of blocks finished since the last call. Their text leaves `tail`. */
  takeFinished() {
    if (!this.#newLine) return [];
    this.#newLine = false;
    const lines = this.tail.slice(0, this.tail.lastIndexOf("\n") + 1);
    const tokens = lex(lines, { ...this.links });
    const finished = tokens.slice(0, Math.max(0, tokens.findLastIndex((token) => token.type !== "space")));
    let length = 0;
    for (const token of finished) {
      length += token.raw.length;
      if (token.type === "def") this.links[token.tag] ??= { href: token.href, title: token.title };
    }
    this.tail = this.tail.slice(length);
    return finished;
  }
}

/**
 * The tail as it will probably continue: what is only half there would flash on its way, `**bold` with its stars, a
 * link with its address, and "Fruit:\n-" as a big heading, before it is a list. For painting the tail only.
 */
export function mend(tail) {
  const at = tail.lastIndexOf("\n") + 1;
  let line = tail.slice(at);
  if (/^[\s>]*(?:[-=*_#~`+|]+|\d{1,9}[.)]?)?\s*$/.test(line)) return tail.slice(0, at); // marks, nothing marked yet
  const fences = tail.match(/^[ \t>]*(?:[-*+]\s+|\d+[.)]\s+)?(?:```|~~~)/gm);
  if (fences && fences.length % 2) return tail; // in code, signs are letters
  line = line.replace(/!?\[([^\][\n]*)\]\([^)\s]*$/, "$1").replace(/[*_~`]+$/, "");
  let plain = line.replace(/\\./g, "").replace(/(`+)[^`]+\1(?!`)/g, "");
  let close = "";
  const tick = /`+/.exec(plain);
  if (tick) {
    close += tick[0];
    plain = plain.slice(0, tick.index);
  }
  if (/(?:^|[\s(])\*(?=[^\s*])[^*]*$/.test(plain.replaceAll("**", ""))) close += "*";
  if (plain.split("**").length % 2 === 0) close += "**";
  return tail.slice(0, at) + (close ? line.trimEnd() + close : line);
}

/** Makes `old`'s children like `fresh`'s, and touches only what differs. Takes nodes out of `fresh`. */
export function morph(old, fresh, from = 0) {
  let current = old.childNodes[from] ?? null;
  for (const node of [...fresh.childNodes]) {
    if (!current) {
      old.append(node);
      continue;
    }
    const next = current.nextSibling;
    if (current.nodeType === Node.TEXT_NODE && node.nodeType === Node.TEXT_NODE) {
      // Appending keeps a selection in this text alive, setting the whole would collapse it.
      if (node.data.startsWith(current.data)) current.appendData(node.data.slice(current.data.length));
      else current.data = node.data;
    } else if (current.nodeType === Node.ELEMENT_NODE && current.cloneNode().isEqualNode(node.cloneNode())) {
      morph(current, node);
    } else current.replaceWith(node);
    current = next;
  }
  while (current) {
    const next = current.nextSibling;
    current.remove();
    current = next;
  }
}

/** A growing answer in an element of the page: `push` text as it comes, `finish` when it ends. */
export class MarkdownView {
  #root;
  #source = "";
  #blocks = new Blocks();
  #finishedNodes = 0;
  #frame = 0;
  #notBeforeMs = 0;

  constructor(root) {
    this.#root = root;
  }

  get source() {
    return this.#source;
  }

  push(text) {
    this.#source += text;
    this.#blocks.feed(text);
    this.#frame ||= requestAnimationFrame(() => this.#paintWhenRested());
  }

  /** Paints everything, at once. Nothing may be pushed afterwards. */
  finish() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#blocks.finish();
    if (this.#source.includes("]:")) morph(this.#root, render(this.#source));
    else this.#paint((tail) => tail);
  }

  /** Shows `source` in place of what was pushed: the part that stands when another model goes on. */
  restart(source) {
    this.#source = "";
    this.#blocks = new Blocks();
    this.#finishedNodes = 0;
    this.push(source);
  }

  // One block can be the whole answer, and then a paint costs what the answer costs. Resting three times as long as
  // the last paint took leaves three quarters of the main thread free, whatever comes.
  #paintWhenRested() {
    const beganMs = performance.now();
    if (beganMs < this.#notBeforeMs) {
      this.#frame = requestAnimationFrame(() => this.#paintWhenRested());
      return;
    }
    this.#frame = 0;
    this.#paint(mend);
    this.#notBeforeMs = beganMs + 4 * (performance.now() - beganMs);
  }

  #paint(shape) {
    const fragment = paint(this.#blocks.takeFinished());
    const finishedNodes = fragment.childNodes.length;
    fragment.append(render(shape(this.#blocks.tail), this.#blocks.links));
    // Where the tail stood there now come the blocks it has become, then the new tail.
    morph(this.#root, fragment, this.#finishedNodes);
    this.#finishedNodes += finishedNodes;
  }
}
