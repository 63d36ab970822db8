// Wires the page: which element does what. The parts know nothing of each other.
//
//     prompt -> conversation -> answer -> stream -> sse    bytes become events
//                            -> markdown, meter            events become the page
//                            -> history                    the page outlives a reload

import { Conversation } from "./conversation.js";
import { Follower } from "./follow.js";
import { ModelChoice } from "./models.js";
import { key, listModels } from "./stream.js";

const at = (id) => document.getElementById(id);
const prompt = at("prompt");
const keyForm = at("key-form");
const touch = matchMedia("(pointer: coarse)");

const models = new ModelChoice(at("model"), at("model-other"), at("model-note"));
const follower = new Follower(at("conversation"), at("to-end"));
const conversation = new Conversation(at("conversation"), at("turn"), () => models.value, {
  announce: (text) => (at("status").textContent = text),
  changed: refresh,
  keyWanted: () => askForKey(() => conversation.again()),
});

function refresh() {
  const { running, empty } = conversation;
  const hadFocus = document.activeElement;
  document.body.classList.toggle("empty", empty);
  document.body.classList.toggle("running", running);
  at("send").hidden = running;
  at("stop").hidden = !running;
  at("new").disabled = empty;
  at("send").disabled = !prompt.value.trim();
  // A control that hides takes the focus with it; the prompt is where the next key belongs.
  if (hadFocus?.hidden || hadFocus?.disabled) prompt.focus();
}

function send(text = prompt.value) {
  const question = text.trim();
  if (!question || conversation.running) return;
  prompt.value = "";
  grow();
  conversation.ask(question);
  if (touch.matches) prompt.blur(); // the keyboard would hide the answer
  else prompt.focus();
  follower.toEnd();
}

/** As high as its text; the stylesheet sets the limit. */
function grow() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`;
}

prompt.addEventListener("input", () => {
  grow();
  refresh();
});
prompt.addEventListener("keydown", (event) => {
  // While an input method composes, Enter picks a candidate. Safari says so by 229 alone.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  send();
});
at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
at("stop").addEventListener("click", () => conversation.stop());
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && conversation.running) conversation.stop();
});
at("new").addEventListener("click", () => {
  conversation.clear();
  at("status").textContent = "New chat.";
  prompt.focus();
});
at("examples").addEventListener("click", (event) => {
  const example = event.target.closest("button");
  if (example) send(example.textContent);
});
at("conversation").addEventListener("click", (event) => {
  if (event.target.closest("[data-part=again]")) {
    conversation.again();
    follower.toEnd();
  }
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});

async function copy(button) {
  const text =
    button.dataset.copy === "code"
      ? button.closest(".code").querySelector("pre").textContent
      : conversation.answerIn(button.closest(".turn"));
  const done = await toClipboard(text);
  at("status").textContent = done ? "Copied." : "Copying failed.";
  const label = button.firstChild;
  label.data = done ? "Copied" : "Failed";
  setTimeout(() => (label.data = "Copy"), 1500);
}

async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Plain http beyond this machine has no clipboard API; a selection can still be copied.
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "unseen";
    const hadFocus = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    hadFocus?.focus();
    return done;
  }
}

let afterKey;

function askForKey(then) {
  afterKey = then;
  at("key-hint").textContent = key.get() ? "This key was not accepted." : "This server asks for an API key.";
  keyForm.hidden = false;
  at("key").focus();
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(at("key").value.trim());
  at("key").value = "";
  keyForm.hidden = true;
  prompt.focus();
  loadModels();
  afterKey?.();
});

async function loadModels() {
  try {
    models.list((await listModels()).map((model) => model.id));
  } catch (error) {
    // Without a list the server's default and any typed name still work; what else is wrong, the first answer tells.
    if (error.status === 401) askForKey();
  }
}

// Whoever leaves may come back, and a phone may end a hidden page without another word.
addEventListener("pagehide", () => conversation.keep());
document.addEventListener("visibilitychange", () => document.hidden && conversation.keep());

refresh();
conversation.restore();
loadModels();
if (!touch.matches) prompt.focus();
