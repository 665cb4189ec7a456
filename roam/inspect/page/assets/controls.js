// What moves through a plan without a mouse: the slider of moments, buttons and keys.

const FASTER = 1.5; // a step of zooming
const FURTHER = 0.1; // a step of moving, of what is visible
const KEYS = [
  ["← →", "move in time"],
  ["↑ ↓", "move in addresses"],
  ["+ −", "zoom in time"],
  ["Shift + ↑ ↓", "zoom in addresses"],
  [", .", "previous or next op"],
  ["p", "to the peak"],
  ["0", "show all"],
  ["/", "search (anywhere)"],
];

/** Returns the controls, and a function that shows the chosen moment in them. */
function makeControls(plan, act, view) {
  const range = { min: 0, max: plan.n - 1, step: 1 };
  const slider = el("input", { type: "range", ...range, "aria-label": "Moment: the op that runs" });
  const chosen = el("input", { type: "number", ...range, "aria-label": "Number of the op" });
  const go = (t) => act({ t: Math.min(Math.max(Math.round(t) || 0, 0), plan.n - 1) });
  slider.addEventListener("input", () => go(Number(slider.value)));
  chosen.addEventListener("change", () => go(Number(chosen.value)));
  const zoom = (text, name, factor) =>
    button(text, () => view.scale("x", factor), { "aria-label": name, title: name });
  const node = el(
    "div",
    { className: "moment" },
    el("span", {}, "op"),
    chosen,
    slider,
    button("peak", () => go(plan.worst)),
    zoom("+", "Zoom in, in time", FASTER),
    zoom("−", "Zoom out, in time", 1 / FASTER),
    button("whole step", () => view.reset()),
    help(),
  );
  function show(t) {
    slider.value = chosen.value = t;
    const told = `op ${t}, ${plan.ops.name[t]}, ${showBytes(plan.held[t])} held`;
    slider.setAttribute("aria-valuetext", told);
  }
  return { node, show };
}

/** Lets the keys of KEYS work while `stage` has the focus. */
function listenToKeys(stage, plan, state, act, view) {
  const go = (t) => act({ t: Math.min(Math.max(t, 0), plan.n - 1) });
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const upright = (factor, share) =>
      event.shiftKey ? view.scale("y", factor) : view.pan("y", share);
    const todo = {
      ArrowLeft: () => view.pan("x", -FURTHER),
      ArrowRight: () => view.pan("x", FURTHER),
      ArrowUp: () => upright(FASTER, FURTHER),
      ArrowDown: () => upright(1 / FASTER, -FURTHER),
      "+": () => view.scale("x", FASTER),
      "=": () => view.scale("x", FASTER), // the key of + without Shift
      "-": () => view.scale("x", 1 / FASTER),
      ",": () => go(state.t - 1),
      ".": () => go(state.t + 1),
      p: () => go(plan.worst),
      0: () => view.reset(),
    }[event.key];
    if (!todo) return;
    event.preventDefault();
    todo();
  });
}

function help() {
  const rows = KEYS.map(([key, what]) => el("div", {}, el("kbd", {}, key), ` ${what}`));
  const mouse =
    "Wheel: zoom in time; with Shift, in addresses. Drag: move. Click: choose a moment.";
  const about = el("div", {}, mouse);
  return el("details", { className: "help" }, el("summary", {}, "keys"), about, ...rows);
}
