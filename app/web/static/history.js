// What the tab keeps of the conversation, so that a reload shows it again.
//
// Session storage: for this tab, until it is closed. It may be forbidden, and it may be full; then nothing is kept at
// all, rather than a part that would read as the whole.

// Characters. Browsers allow some five million to an origin; writing this much takes a few milliseconds.
const MOST = 2_000_000;

/** The API key lasts for all pages of this server, a conversation belongs to one. */
const name = () => `sluiceway.chat ${new URL(".", document.baseURI).pathname}`;

/** @returns {boolean} whether a reload would find it */
export function keep(value) {
  try {
    const text = JSON.stringify(value);
    if (text.length <= MOST) {
      sessionStorage.setItem(name(), text);
      return true;
    }
  } catch {
    // Forbidden or full.
  }
  forget();
  return false;
}

/** What was given to `keep`; null where there is nothing. */
export function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(name()));
  } catch {
    return null;
  }
}

export function forget() {
  try {
    sessionStorage.removeItem(name());
  } catch {
    // Then there is nothing in it.
  }
}
