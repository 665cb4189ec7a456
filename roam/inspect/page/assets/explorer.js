// One plan: its charts, table, tree and details, which share a state.

const SETTLED = 80; // milliseconds without a change, after which tables are made anew

/**
 * Fills `host` with an explorer of a plan.
 *
 * @param shared { kindColours, curveTop, addressTop }: what several explorers agree on
 * @returns act(changes), which sets fields of the state and draws what depends on them
 */
function makeExplorer(host, plan, shared) {
  const state = {
    t: plan.worst, // the chosen moment
    buffer: null, // the chosen buffer
    module: null, // a path: only what lies within is lit and listed
    merged: true, // layers of one kind are one module in the tree
    text: "", // filter of the table's rows
    sort: ["bytes", true], // column, and whether the largest come first
    left: new Set(), // buffers that are left out of the curve "without"
    colourBy: "kind",
    unit: "ops", // of the time axis
    matches: null, // by buffer whether it is lit
    less: null, // what `plan.without` says
  };
  const views = []; // drawn in every frame in which something changed
  const tables = []; // drawn when the changes have ended: hundreds of elements take longer than a frame
  let changed = new Set(["first"]),
    asked = 0,
    missed = new Set(),
    timer = 0;
  function act(changes) {
    for (const [key, value] of Object.entries(changes)) {
      if (state[key] !== value) {
        state[key] = value;
        changed.add(key);
      }
    }
    if (changed.size && !asked) asked = requestAnimationFrame(draw);
  }
  function draw() {
    asked = 0;
    const now = changed;
    changed = new Set();
    if (now.has("module")) {
      state.matches =
        state.module === null
          ? null
          : Array.from({ length: plan.inStep }, (_, b) => within(plan.module(b), state.module));
    }
    if (now.has("left")) state.less = state.left.size ? plan.without(state.left) : null;
    views.forEach((view) => view(now));
    now.forEach((key) => missed.add(key));
    clearTimeout(timer);
    timer = setTimeout(drawTables, now.has("first") ? 0 : SETTLED);
  }
  function drawTables() {
    const now = missed;
    missed = new Set();
    tables.forEach((view) => view(now));
  }

  const part = (className, tag = "div") => el(tag, { className });
  const tools = part("tools"),
    legend = part("legend"),
    charts = part("charts"),
    now = part("now"),
    tree = part("tree"),
    table = part("table"),
    details = part("details");
  host.append(
    el(
      "p",
      { className: "summary" },
      `${plan.name}: ${plan.summary}${plan.proof && `; bound proven by ${plan.proof}`}`,
    ),
    tools,
    el(
      "div",
      { className: "panes" },
      el("div", {}, charts, legend, table),
      el("div", {}, now, tree, details),
    ),
  );
  if (plan.edits.length)
    host.append(
      el(
        "details",
        {},
        el("summary", {}, "what runs again and what moves"),
        el("pre", {}, plan.edits.join("\n")),
      ),
    );

  const searching = el("div", { className: "searching" });
  makeSearch(searching, plan, act);
  const select = (label, key, values) =>
    el(
      "label",
      {},
      `${label} `,
      el(
        "select",
        { onchange: (e) => act({ [key]: e.target.value }) },
        values.map((v) => el("option", {}, v)),
      ),
    );
  tools.append(
    searching,
    select("colour by", "colourBy", ["kind", "module"]),
    plan.begin ? select("time in", "unit", ["ops", "seconds"]) : "",
  );

  views.push(
    makeCharts(charts, plan, state, act, shared),
    makeNow(now, plan, state, act),
    makeLegend(legend, plan, state, shared),
  );
  tables.push(
    makeTree(tree, plan, state, act, shared),
    makeTable(table, plan, state, act),
    makeDetails(details, plan, state, act),
  );
  act({});
  return act;
}

/** Says what runs at the chosen moment, what is held, and what leaving out would give. */
function makeNow(host, plan, state, act) {
  const said = el("output", { "aria-live": "polite" }),
    without = el("p", { className: "without" });
  host.append(said, without);
  return function render(changed) {
    if (!["t", "left", "first"].some((key) => changed.has(key))) return;
    const t = state.t,
      seconds = plan.begin ? `, ${showSeconds(plan.begin[t])} into the step` : "";
    said.replaceChildren(
      el("h2", {}, `op ${showCount(t)}: ${plan.ops.name[t]}`),
      el("p", {}, `in ${plan.opModule(t) || TOP}${seconds}`),
      ...[plan.calls(t), plan.line(t)]
        .filter(Boolean)
        .map((text) => el("p", { className: "origin" }, text)),
      el(
        "p",
        {},
        `${showBytes(plan.held[t])} held, ${showBytes(plan.live[t])} alive; peak ${showBytes(plan.peak)} at op ${showCount(plan.worst)}, ` +
          `no order takes less than ${showBytes(plan.bound)}${plan.stated ? " (stated, not proven)" : ""}`,
      ),
    );
    without.replaceChildren(
      ...(state.less === null
        ? []
        : [
            `Without ${showCount(state.left.size)} tensor${state.left.size === 1 ? "" : "s"}, ${showBytes(state.less.peak)} would be alive at most, at op ${showCount(state.less.at)}, ` +
              `in place of ${showBytes(plan.live.reduce((a, b) => Math.max(a, b), 0))} (same order). `,
            button("leave out nothing", () => act({ left: new Set() })),
          ]),
    );
  };
}

function makeLegend(host, plan, state, shared) {
  const key = ([name, colour]) =>
    el(
      "span",
      {},
      colour.startsWith("line") ? el("i", { className: colour }) : swatch(colour),
      name,
    );
  function swatch(colour) {
    const made = el("i");
    made.style.background = colour;
    return made;
  }
  return function render(changed) {
    if (!["colourBy", "left", "first"].some((name) => changed.has(name))) return;
    const { legend } = coloursOf(plan, state.colourBy, shared.kindColours);
    const lines = [
      ["held", "line held"],
      ["alive", "line live"],
      ["lower bound", "line bound"],
    ];
    if (state.left.size) lines.push(["alive without", "line without"]);
    host.replaceChildren(...[...legend, ...lines].map(key));
  };
}
