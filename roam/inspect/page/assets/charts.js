// The charts of a plan: the arena, marks and curves on a canvas, with their axes and the strip.

/** Returns a function that renders what changed. `act` sets fields of `state`. */
function makeCharts(host, plan, state, act, shared) {
  const marks = marksOf(plan);
  const panels = panelsOf(marks);
  const canvas = el("canvas", { "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const tip = el("div", { className: "tip", hidden: true });
  const axes = makeAxes(panels, marks, shared.addressTop > plan.arena);
  const label =
    `Arena and curves of ${plan.name}. Arrow keys move, plus and minus zoom in time, ` +
    "Shift with up and down in addresses, comma and period step through ops.";
  const properties = { className: "stage", tabIndex: 0, role: "application", "aria-label": label };
  const stage = el("div", properties, canvas, axes.node, tip);
  const box = () => ({ left: panels.left, right: panels.right, ...panels.arena });
  const view = makeWindow(stage, box, () => act({ window: {} }));
  const strip = makeStrip(panels, view);
  const controls = makeControls(plan, act, view);
  host.append(stage, strip.node, controls.node);
  listenToKeys(stage, plan, state, act, view);

  const { top, bottom } = panels.curve;
  const curveY = d3.scaleLinear([0, 1.12 * shared.curveTop], [bottom, top]); // room for "peak"
  const places = Float64Array.from({ length: plan.n + 1 }, (_, t) => t);
  let position = null; // by op, where it begins on the time axis, and where the last one ends
  let colours = null;
  let theme = null;

  function resize() {
    const width = Math.max(stage.clientWidth, 300);
    const ratio = window.devicePixelRatio || 1;
    panels.right = width - MARGIN.right;
    canvas.width = width * ratio;
    canvas.height = panels.height * ratio;
    canvas.style.height = `${panels.height}px`;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    view.fit(position[plan.n], shared.addressTop);
    strip.resize(plan.held, position, curveY.domain());
  }

  function render(changed) {
    const first = changed.has("first");
    const has = (key) => first || changed.has(key);
    if (has("unit")) position = state.unit === "seconds" ? plan.begin : places;
    if (has("theme")) theme = themeOf(host);
    if (has("colourBy")) colours = coloursOf(plan, state.colourBy, shared.kindColours).of;
    if (has("unit") || has("size")) resize();
    const x = view.x();
    const y = view.y();
    axes.draw({ x, y, curveY, unit: state.unit });
    paint(context, { plan, state, position, x, y, curveY, panels, colours, marks, theme });
    strip.follow(x);
    controls.show(state.t);
    if (first) new ResizeObserver(() => act({ size: {} })).observe(stage);
  }

  /** The op that runs at a place of the stage. */
  function timeAt(px) {
    const at = view.x().invert(px);
    let low = 0;
    let high = plan.n - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (position[middle] <= at) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  function bufferAt(px, py) {
    if (py > panels.arena.bottom || px < panels.left) return null;
    const t = timeAt(px);
    const address = view.y().invert(py);
    for (let b = 0; b < plan.inStep; b++) {
      const low = plan.height(b);
      const alive = plan.lower[b] <= t && t < plan.until[b];
      if (alive && low <= address && address < low + plan.buffers.size[b]) return b;
    }
    return null;
  }

  stage.addEventListener("click", (event) => {
    const [px, py] = d3.pointer(event, stage);
    const buffer = bufferAt(px, py);
    act(buffer === null ? { t: timeAt(px) } : { t: timeAt(px), buffer });
  });
  stage.addEventListener("pointermove", (event) => {
    const [px, py] = d3.pointer(event, stage);
    const b = bufferAt(px, py);
    tip.hidden = b === null && py < panels.curve.top;
    if (tip.hidden) return;
    tip.textContent = b === null ? tellOp(plan, timeAt(px)) : tellBuffer(plan, b);
    tip.style.left = `${Math.min(px + 14, Math.max(panels.right - 220, 0))}px`;
    tip.style.top = `${py + 14}px`;
  });
  stage.addEventListener("pointerleave", () => {
    tip.hidden = true;
  });
  return render;
}

function tellOp(plan, t) {
  const bytes = `held ${showBytes(plan.held[t])}, alive ${showBytes(plan.live[t])}`;
  return `op ${showCount(t)} ${plan.opTitle(t)}\n${bytes}`;
}

function tellBuffer(plan, b) {
  const what = `${plan.buffers.name[b]}: ${plan.kind(b)}, ${showBytes(plan.buffers.size[b])}`;
  return `${what}\n${plan.module(b) || TOP}\nalive ${showLife(plan.lower[b], plan.upper[b])}`;
}
