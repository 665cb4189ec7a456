// Finds modules, tensors and ops by a part of their names.

const FOUND = 8; // of each sort

function makeSearch(host, plan, act) {
  const input = el("input", {
    type: "search",
    placeholder: "search module, tensor, op",
    "aria-label": "Search modules, tensors and ops",
    className: "search",
  });
  const results = el("div", { className: "results", hidden: true });
  host.append(input, results);

  const paths = new Set();
  for (const module of plan.modules) {
    const parts = module.split(".");
    parts.forEach((_, i) => paths.add(parts.slice(0, i + 1).join(".")));
  }
  paths.delete("");

  function choose(changes) {
    results.hidden = true;
    act(changes);
  }

  /** Lit and listed at its largest moment. */
  function chooseModule(path) {
    let most = -1,
      at = 0;
    const curve = new Float64Array(plan.n + 1);
    for (let b = 0; b < plan.inStep; b++) {
      if (!within(plan.module(b), path)) continue;
      curve[plan.lower[b]] += plan.buffers.size[b];
      curve[plan.until[b]] -= plan.buffers.size[b];
    }
    for (let t = 0, now = 0; t < plan.n; t++) {
      now += curve[t];
      if (now > most) {
        most = now;
        at = t;
      }
    }
    choose({ module: path, text: "", t: at });
  }

  function chooseBuffer(b) {
    const t = Math.min(
      Math.max(plan.worst, plan.lower[b]),
      Math.max(plan.upper[b] - 1, plan.lower[b]),
    );
    choose({ buffer: b, t });
  }

  function find() {
    const text = input.value.trim().toLowerCase();
    results.hidden = !text;
    if (!text) return;
    const has = (name) => name.toLowerCase().includes(text);
    const bySize = (a, b) => plan.buffers.size[b] - plan.buffers.size[a];
    const all = (names) => names.map((_, i) => i).filter((i) => has(names[i]));
    const sorts = [
      [
        "modules",
        [...paths].filter(has).sort((a, b) => a.length - b.length),
        (path) => button(path, () => chooseModule(path)),
      ],
      [
        "tensors",
        all(plan.buffers.name).sort(bySize),
        (b) =>
          button(
            `${plan.buffers.name[b]}, ${showBytes(plan.buffers.size[b])}, ${plan.module(b) || TOP}`,
            () => chooseBuffer(b),
          ),
      ],
      [
        "ops",
        all(plan.ops.name.map((_, t) => plan.opTitle(t))),
        (t) =>
          button(`${plan.opTitle(t)}, op ${showCount(t)}, ${plan.opModule(t) || TOP}`, () =>
            choose({ t }),
          ),
      ],
    ].filter(([, found]) => found.length);
    results.replaceChildren(
      ...sorts.flatMap(([name, found, make]) => [
        el("h4", {}, `${showCount(found.length)} ${name}`),
        ...found.slice(0, FOUND).map(make),
      ]),
    );
    if (!sorts.length) results.append("nothing");
  }

  input.addEventListener("input", find);
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      results.hidden = true;
      input.value = "";
    }
    if (event.key === "Enter") results.querySelector("button")?.click();
  });
  host.addEventListener("focusout", (event) => {
    if (!host.contains(event.relatedTarget)) results.hidden = true;
  });
  return input;
}
