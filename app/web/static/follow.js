// Follows a growing page to its end, as long as the reader is there.
//
// Growth fires no scroll event, the reader's hand does. So any movement upwards lets go, and being back at the end
// takes hold again. Nothing is compared with a distance "near enough to the end" on the way up: with one, a slow wheel
// would be pulled back at every token.

export class Follower {
  #following = true;
  #lastY = 0;
  #button;

  /** Watches `content`'s height; shows `button` while the end is out of sight, and goes there when it is pressed. */
  constructor(content, button) {
    this.#button = button;
    addEventListener("scroll", () => this.#scrolled(), { passive: true });
    button.addEventListener("click", () => this.toEnd());
    content.addEventListener("click", (event) => {
      if (event.target.closest("summary")) this.#following = false; // what unfolds is what will be read now
    });
    new ResizeObserver(() => {
      if (this.#following && content.firstElementChild) this.toEnd();
      else this.#showButton();
    }).observe(content);
  }

  toEnd() {
    this.#following = true;
    scrollTo({ top: document.documentElement.scrollHeight, behavior: "instant" });
    this.#lastY = scrollY;
    this.#showButton();
  }

  get #distance() {
    return document.documentElement.scrollHeight - innerHeight - scrollY;
  }

  #scrolled() {
    if (this.#distance < 8) this.#following = true;
    else if (scrollY < this.#lastY) this.#following = false;
    this.#lastY = scrollY;
    this.#showButton();
  }

  #showButton() {
    this.#button.hidden = this.#following || this.#distance < 80;
  }
}
