// The charts of a plan: the arena, marks, curves, and a strip with a brush over the whole step.

const MARGIN = { left: 84, right: 14, top: 22 };
const ARENA_HEIGHT = 340, CURVE_HEIGHT = 150, MARK_HEIGHT = 14, AXIS_HEIGHT = 34, STRIP_HEIGHT = 36;
const KEYS = [
  ["← →", "move in time"], ["↑ ↓", "move in addresses"], ["+ −", "zoom in time"],
  ["Shift + ↑ ↓", "zoom in addresses"], [", .", "previous or next op"],
  ["p", "to the peak"], ["0", "show all"], ["/", "search (anywhere)"],
];

/** Returns a function that renders what changed. `act` sets fields of `state`. */
function makeCharts(host, plan, state, act, shared) {
  const marks = marksOf(plan);
  const heights = { marks: marks.length * MARK_HEIGHT };
  const top = MARGIN.top, below = top + ARENA_HEIGHT + 6;
  const panels = {
    arena: { top, bottom: top + ARENA_HEIGHT },
    marks: { top: below, bottom: below + heights.marks },
    curve: { top: below + heights.marks + 18, bottom: below + heights.marks + 18 + CURVE_HEIGHT },
    left: MARGIN.left,
    right: MARGIN.left + 100,
  };
  const height = panels.curve.bottom + AXIS_HEIGHT;
  const canvas = el("canvas", { "aria-hidden": "true" });
  const axes = d3.create("svg").attr("aria-hidden", "true").attr("class", "axes").attr("height", height);
  const tip = el("div", { className: "tip", hidden: true });
  const stage = el("div", {
    className: "stage", tabIndex: 0, role: "application",
    "aria-label": `Arena and curves of ${plan.name}. Arrow keys move, plus and minus zoom in time, Shift with up and down in addresses, comma and period step through ops.`,
  }, canvas, axes.node(), tip);
  const strip = d3.create("svg").attr("class", "strip").attr("height", STRIP_HEIGHT).attr("aria-hidden", "true");
  const slider = el("input", { type: "range", min: 0, max: plan.n - 1, step: 1, "aria-label": "Moment: the op that runs" });
  const chosen = el("input", { type: "number", min: 0, max: plan.n - 1, step: 1, "aria-label": "Number of the op" });
  host.append(stage, strip.node(), el("div", { className: "moment" }, el("span", {}, "op"), chosen, slider,
    button("peak", () => act({ t: plan.worst })), ...zoomButtons(), help()));

  const curveY = d3.scaleLinear([0, 1.12 * shared.curveTop(plan)], [panels.curve.bottom, panels.curve.top]);
  const context = canvas.getContext("2d");
  const box = () => ({ left: panels.left, right: panels.right, top: panels.arena.top, bottom: panels.arena.bottom });
  const view = makeWindow(stage, box, () => act({ window: {} }));
  const groups = Object.fromEntries(["time", "address", "bytes", "names"].map((name) => [name, axes.append("g").attr("class", name)]));
  const overview = strip.append("g"), brushed = strip.append("g");
  let brushing = false; // by hand: then the window follows the brush, otherwise the brush the window
  const brush = d3.brushX()
    .on("start", ({ sourceEvent }) => { if (sourceEvent) brushing = true; })
    .on("brush", ({ selection, sourceEvent }) => {
      if (sourceEvent) view.show(...selection.map(view.whole().invert));
    })
    .on("end", ({ selection, sourceEvent }) => {
      if (!sourceEvent) return;
      brushing = false;
      if (!selection) view.reset(); // a click beside the brush
    });
  let position = null, colours = null, theme = null;

  function resize() {
    const width = Math.max(stage.clientWidth, 300), ratio = window.devicePixelRatio || 1;
    panels.right = width - MARGIN.right;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = `${height}px`;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    axes.attr("width", width);
    strip.attr("width", width);
    view.fit(position[plan.n], shared.addressTop(plan));
    brush.extent([[panels.left, 2], [panels.right, STRIP_HEIGHT - 2]]);
    brushed.call(brush);
    drawOverview();
  }

  function drawOverview() {
    const y = d3.scaleLinear(curveY.domain(), [STRIP_HEIGHT - 2, 2]);
    const corners = steps(plan.held, position, view.whole(), y, panels);
    const path = corners.map(([px, py]) => `L${px.toFixed(1)} ${py.toFixed(1)}`).join("");
    overview.selectAll("path").data([0]).join("path")
      .attr("d", `M${panels.left} ${STRIP_HEIGHT - 2}${path}L${panels.right} ${STRIP_HEIGHT - 2}Z`);
  }

  function drawAxes(x, y) {
    const ticks = Math.max(2, Math.round((panels.right - panels.left) / 110));
    const seconds = state.unit === "seconds";
    const time = d3.axisBottom(x).ticks(ticks).tickFormat(seconds ? showSeconds : undefined);
    if (!seconds) time.tickValues(x.ticks(ticks).filter(Number.isInteger)).tickFormat(showCount);
    groups.time.attr("transform", `translate(0,${panels.curve.bottom})`).call(time);
    groups.address.attr("transform", `translate(${panels.left},0)`).call(bytesAxis(y, 8));
    groups.bytes.attr("transform", `translate(${panels.left},0)`).call(bytesAxis(curveY, 4));
    const names = marks.map(({ name }, i) => [name, panels.left - 6, panels.marks.top + (i + 0.8) * MARK_HEIGHT, "end"]);
    names.push(["address", panels.left, panels.arena.top - 9, "end"], ["held", panels.left, panels.curve.top - 7, "end"]);
    if (shared.addressTop(plan) > plan.arena) names.push(["above the dotted line: outside the arena, stacked for the picture", panels.left + 6, panels.arena.top + 12, "start"]);
    names.push([seconds ? "time, seconds" : "time, ops", panels.right, height - 4, "end"]);
    groups.names.selectAll("text").data(names).join("text").text(([name]) => name)
      .attr("x", ([, px]) => px).attr("y", ([, , py]) => py).attr("text-anchor", ([, , , anchor]) => anchor);
  }

  function render(changed) {
    const first = position === null;
    if (changed.has("unit") || first) {
      position = state.unit === "seconds" ? plan.begin : Float64Array.from({ length: plan.n + 1 }, (_, t) => t);
      if (first) new ResizeObserver(() => act({ size: {} })).observe(stage);
    }
    if (changed.has("theme") || first) theme = themeOf(host);
    if (changed.has("colourBy") || first) colours = coloursOf(plan, state.colourBy, shared.kindColours).of;
    if (changed.has("unit") || changed.has("size") || first) resize();
    const x = view.x(), y = view.y();
    drawAxes(x, y);
    paint(context, { plan, position, x, y, curveY, panels, colours, marks, theme, state, matches: state.matches, without: state.less });
    const ends = [x.invert(panels.left), x.invert(panels.right)].map(view.whole());
    if (!brushing) brush.move(brushed, [Math.max(ends[0], panels.left), Math.min(ends[1], panels.right)]);
    slider.value = chosen.value = state.t;
    slider.setAttribute("aria-valuetext", `op ${state.t}, ${plan.ops.name[state.t]}, ${showBytes(plan.held[state.t])} held`);
  }

  function timeAt(px) {
    const at = view.x().invert(px);
    let low = 0, high = plan.n - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (position[middle] <= at) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  function bufferAt(px, py) {
    if (py > panels.arena.bottom || px < panels.left) return null;
    const t = timeAt(px), address = view.y().invert(py);
    for (let b = 0; b < plan.inStep; b++) {
      const low = plan.address(b) + (plan.isPlaced(b) ? 0 : plan.arena);
      if (plan.lower[b] <= t && t < plan.until[b] && low <= address && address < low + plan.buffers.size[b]) return b;
    }
    return null;
  }

  stage.addEventListener("click", (event) => {
    const [px, py] = d3.pointer(event, stage);
    const buffer = bufferAt(px, py);
    act(buffer === null ? { t: timeAt(px) } : { t: timeAt(px), buffer });
  });
  stage.addEventListener("pointermove", (event) => {
    const [px, py] = d3.pointer(event, stage), b = bufferAt(px, py);
    tip.hidden = b === null && py < panels.curve.top;
    if (tip.hidden) return;
    const t = timeAt(px);
    tip.textContent = b === null
      ? `op ${showCount(t)} ${plan.opTitle(t)}\nheld ${showBytes(plan.held[t])}, alive ${showBytes(plan.live[t])}`
      : `${plan.buffers.name[b]}: ${plan.kind(b)}, ${showBytes(plan.buffers.size[b])}\n${plan.module(b) || TOP}\nalive [${showCount(plan.lower[b])}, ${showCount(plan.upper[b])})`;
    tip.style.left = `${Math.min(px + 14, Math.max(panels.right - 220, 0))}px`;
    tip.style.top = `${py + 14}px`;
  });
  stage.addEventListener("pointerleave", () => { tip.hidden = true; });
  stage.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = (by) => act({ t: Math.min(Math.max(state.t + by, 0), plan.n - 1) });
    const keys = {
      ArrowLeft: () => view.pan("x", -0.1), ArrowRight: () => view.pan("x", 0.1),
      ArrowUp: () => (event.shiftKey ? view.scale("y", 1.5) : view.pan("y", 0.1)),
      ArrowDown: () => (event.shiftKey ? view.scale("y", 1 / 1.5) : view.pan("y", -0.1)),
      "+": () => view.scale("x", 1.5), "=": () => view.scale("x", 1.5), "-": () => view.scale("x", 1 / 1.5),
      ",": () => step(-1), ".": () => step(1),
      p: () => act({ t: plan.worst }), 0: () => view.reset(),
    };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  slider.addEventListener("input", () => act({ t: Number(slider.value) }));
  chosen.addEventListener("change", () => act({ t: Math.min(Math.max(Math.round(Number(chosen.value)) || 0, 0), plan.n - 1) }));

  function zoomButtons() {
    const make = (text, name, todo) => button(text, todo, { "aria-label": name, title: name });
    return [
      make("+", "Zoom in, in time", () => view.scale("x", 1.5)), make("−", "Zoom out, in time", () => view.scale("x", 1 / 1.5)),
      button("whole step", () => view.reset()),
    ];
  }
  return render;
}

/** A scale of bytes whose ticks are round in the unit of its largest number. */
function bytesAxis(scale, ticks) {
  const [unit, factor] = unitOf(Math.max(...scale.domain().map(Math.abs)));
  const inUnits = d3.scaleLinear(scale.domain().map((bytes) => bytes / factor), scale.range());
  return d3.axisLeft(inUnits).ticks(ticks).tickFormat((n) => `${+n.toPrecision(6)} ${unit}`);
}

/** The rows of marks that a plan has: what runs again, what moves, what is folded. */
function marksOf(plan) {
  const all = Array.from({ length: plan.n }, (_, t) => t);
  const times = (what) => all.filter((t) => plan.is(t, what));
  const bars = (lane) => {
    const waits = new Map(all.filter((t) => plan.is(t, lane) && plan.is(t, IS.waits)).map((t) => [plan.ops.name[t].replace(/\.wait$/, ""), t]));
    const starts = all.filter((t) => plan.is(t, lane) && plan.is(t, IS.starts));
    return starts.map((t) => [t, waits.get(plan.ops.name[t].replace(/\.start$/, "")) ?? t]);
  };
  const rows = [
    { name: "run again", times: times(IS.copy), bars: [], colour: "bound" },
    { name: "moved out", times: [], bars: bars(IS.out), colour: "live" },
    { name: "moved back", times: [], bars: bars(IS.back), colour: "without" },
    { name: "folds", times: times(IS.fold), bars: [], colour: "ink" },
  ];
  return rows.filter((row) => row.times.length || row.bars.length);
}

function help() {
  const rows = KEYS.map(([key, what]) => el("div", {}, el("kbd", {}, key), ` ${what}`));
  const mouse = "Wheel: zoom in time; with Shift, in addresses. Drag: move. Click: choose a moment.";
  return el("details", { className: "help" }, el("summary", {}, "keys"), el("div", {}, mouse), ...rows);
}
