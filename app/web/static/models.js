// The choice of a model: a plain select of what the server lists, and "Other…" for a name it does not list.
//
// A select and not an <input list>: a datalist shows only what matches the text already in the field, so with a model
// chosen the others cannot be seen; a phone opens a select as a wheel or a sheet, and typing ahead works in it.
// The choice stands in the page's address as ?model=, so that a reload keeps it and a link can carry it.

const OTHER = "\u0000other";

export class ModelChoice {
  #select;
  #input;
  #note;
  #chosen = "";
  #known = [];

  /** `select` and `input` share one place; `note` shows what must be known about the chosen model. */
  constructor(select, input, note) {
    this.#select = select;
    this.#input = input;
    this.#note = note;
    const asked = new URLSearchParams(location.search).get("model");
    this.#fill(asked ? [asked] : [], asked ?? "");

    select.addEventListener("change", () => {
      if (select.value === OTHER) this.#typing(true);
      else this.#choose(select.value);
    });
    input.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.isComposing) this.#typed();
      else if (event.key === "Escape") this.#typing(false);
      else return;
      event.preventDefault();
      event.stopPropagation(); // this Escape leaves the field, it does not stop an answer
      select.focus();
    });
    input.addEventListener("blur", () => this.#typed());
  }

  /** "" while nothing is known: then the server's default answers. */
  get value() {
    return this.#chosen;
  }

  /** @param {string[]} ids in the server's order, its default first */
  list(ids) {
    this.#fill(ids, this.#chosen || ids[0] || "");
  }

  #fill(ids, chosen) {
    this.#known = ids.includes(chosen) || !chosen ? ids : [...ids, chosen];
    const options = this.#known.map((id) => new Option(id, id));
    if (!this.#known.length) options.push(new Option("Default model", ""));
    this.#select.replaceChildren(...options, new Option("Other…", OTHER));
    this.#show(chosen);
  }

  #choose(id) {
    this.#fill(this.#known, id);
    const url = new URL(location.href);
    url.searchParams.set("model", id);
    history.replaceState(null, "", url);
  }

  #show(id) {
    this.#chosen = id;
    this.#select.value = id;
    this.#select.title = id;
    this.#note.hidden = !id.startsWith("local/");
  }

  #typing(is) {
    this.#input.hidden = !is;
    this.#select.hidden = is;
    this.#select.value = this.#chosen;
    if (is) {
      this.#input.value = "";
      this.#input.focus();
    }
  }

  #typed() {
    if (this.#input.hidden) return;
    const id = this.#input.value.trim();
    this.#typing(false);
    if (id) this.#choose(id);
  }
}
