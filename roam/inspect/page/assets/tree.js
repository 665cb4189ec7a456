// What is alive at a moment, by module: an icicle, one row of boxes for each level of the path.

const LEVEL_HEIGHT = 26,
  LEVELS = 7; // rows that are drawn below the chosen module
const NARROW = 24; // pixels: narrower boxes could not be hit, and are joined

/**
 * A tree of the rows: modules by their paths, and below each module the kinds of its own rows.
 * `merged`: layers of one kind are one module, `h.*.mlp`.
 */
function modulesOf(rows, merged) {
  const root = { name: "all", path: "", children: new Map(), size: 0 };
  for (const row of rows) {
    let node = root;
    const module = merged ? stem(row.module) : row.module;
    for (const part of module ? module.split(".") : []) {
      if (!node.children.has(part)) {
        node.children.set(part, {
          name: part,
          path: node.path ? `${node.path}.${part}` : part,
          children: new Map(),
        });
      }
      node = node.children.get(part);
    }
    const key = `\u0000${row.kind}`; // no module has such a name
    if (!node.children.has(key))
      node.children.set(key, {
        name: row.kind,
        path: node.path,
        kind: row.kind,
        children: new Map(),
        size: 0,
      });
    node.children.get(key).size += row.size;
  }
  return root;
}

function makeTree(host, plan, state, act, shared) {
  const icicle = el("div", { className: "icicle" });
  const merge = el("input", {
    type: "checkbox",
    checked: state.merged,
    onchange: () => act({ merged: merge.checked, module: null }),
  });
  host.append(
    el(
      "div",
      { className: "heading" },
      el("h3", {}, "by module"),
      el("label", {}, merge, " layers as one"),
    ),
    icicle,
  );
  new ResizeObserver(() => render(new Set(["t"]))).observe(icicle);

  function box(node, x, width, row) {
    const { data } = node,
      share = showShare(node.value, plan.held[state.t]);
    const text = `${data.name} ${showBytes(node.value)}`;
    const made = button(
      text,
      () => act({ module: data.path && data.path === state.module ? null : data.path || null }),
      {
        title: `${data.kind ? `${data.kind} of ` : ""}${data.path || TOP}: ${showBytes(node.value)}, ${share}`,
        className: data.path === state.module && !data.kind ? "chosen" : "",
      },
    );
    made.style.cssText = `left:${x}px;width:${width - 1}px;top:${row * LEVEL_HEIGHT}px;height:${LEVEL_HEIGHT - 1}px`;
    if (data.kind)
      made.style.borderBottom = `4px solid ${shared.kindColours[data.kind] ?? "#999999"}`;
    return made;
  }

  function rest(x, width, row, nodes) {
    const bytes = nodes.reduce((sum, node) => sum + node.value, 0);
    const wide = Math.max(width - 1, 1);
    const made = el(
      "span",
      { title: `${nodes.length} more: ${showBytes(bytes)}` },
      wide < NARROW ? "" : `${nodes.length} more`,
    );
    made.style.cssText = `left:${x}px;width:${wide}px;top:${row * LEVEL_HEIGHT}px;height:${LEVEL_HEIGHT - 1}px`;
    return made;
  }

  function render(changed) {
    if (!["t", "module", "merged", "first"].some((key) => changed.has(key))) return;
    const width = icicle.clientWidth;
    if (!width) return; // not laid out yet: the observer calls again
    const whole = d3
      .hierarchy(modulesOf(plan.moment(state.t), state.merged), (node) => [
        ...node.children.values(),
      ])
      .sum((node) => Math.max(node.size ?? 0, 0))
      .sort((a, b) => b.value - a.value);
    const top = // a layer that was found by searching is not in a merged tree: then all is shown
      whole.find((node) => node.data.path === (state.module ?? "") && !node.data.kind) ?? whole;
    const above = top.ancestors().slice(1).reverse(); // the way back
    const boxes = [];
    let rows = 0;
    const place = (node, x, room, row) => {
      boxes.push(box(node, x, room, row));
      rows = Math.max(rows, row + 1);
      if (row + 1 >= above.length + LEVELS || !node.children) return;
      let at = x;
      const small = [];
      for (const child of node.children) {
        const wide = (room * child.value) / node.value;
        if (wide < NARROW) small.push(child);
        else {
          place(child, at, wide, row + 1);
          at += wide;
        }
      }
      if (!small.length) return;
      boxes.push(rest(at, x + room - at, row + 1, small));
      rows = Math.max(rows, row + 2);
    };
    above.forEach((node, row) => boxes.push(box(node, 0, width, row)));
    if (top.value) place(top, 0, width, above.length);
    icicle.replaceChildren(...boxes);
    icicle.style.height = `${rows * LEVEL_HEIGHT}px`;
  }
  return render;
}
