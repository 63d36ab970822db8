// The example as an app has it: mounted, in StrictMode, and unmounted.

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { Ask } from "../../examples/react/Ask.jsx";

const model = new URLSearchParams(location.search).get("model");
let root;

window.mount = () => {
  root = createRoot(document.querySelector("main"));
  root.render(
    <StrictMode>
      <Ask model={model} />
    </StrictMode>,
  );
};
window.unmount = () => root.unmount();

window.mount();
