// A component of React's without a page: it is run, its effects after it, and again when its state has changed. Enough
// of a renderer for a hook that needs no more than these.

import React from "react";

const internals = React.__CLIENT_INTERNALS_DO_NOT_USE_OR_WARN_USERS_THEY_CANNOT_UPGRADE;

// `component()` uses hooks. `current` is what it gave last; `unmount` cleans its effects up.
export function mounted(component) {
  const cells = [];
  const root = { current: undefined, unmount };
  let at = 0;
  let asked = false;
  let gone = false;

  const cell = (make) => (cells[at++] ??= make());
  const changed = (before, now) => !before || !now || now.some((value, index) => !Object.is(value, before[index]));

  const hooks = {
    useRef: (first) => cell(() => ({ current: first })),
    useMemo(make, wants) {
      const memo = cell(() => ({}));
      if (changed(memo.wants, wants)) Object.assign(memo, { value: make(), wants });
      return memo.value;
    },
    useCallback: (callback, wants) => hooks.useMemo(() => callback, wants),
    useState(first) {
      const state = cell(() => ({ value: typeof first === "function" ? first() : first }));
      state.set ??= (next) => {
        const value = typeof next === "function" ? next(state.value) : next;
        if (!Object.is(value, state.value)) {
          state.value = value;
          ask();
        }
      };
      return [state.value, state.set];
    },
    useEffect(run, wants) {
      const effect = cell(() => ({}));
      effect.due = changed(effect.wants, wants);
      Object.assign(effect, { run, wants });
    },
  };

  function ask() {
    if (!asked) queueMicrotask(render);
    asked = true;
  }

  function render() {
    if (gone) return;
    asked = false;
    at = 0;
    const before = internals.H;
    internals.H = hooks;
    try {
      root.current = component();
    } finally {
      internals.H = before;
    }
    const due = cells.filter((effect) => effect.due);
    for (const effect of due) {
      effect.due = false;
      effect.clean?.();
    }
    for (const effect of due) effect.clean = effect.run();
  }

  function unmount() {
    gone = true;
    for (const effect of cells) effect.clean?.();
  }

  render();
  return root;
}
