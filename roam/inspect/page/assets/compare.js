// Two steps beside each other on one scale, and what grew from one to the other.

function showComparison(app, data, steps, acts) {
  const shared = sharedBy(steps.flat(), data.colours);
  const body = el("tbody");
  const filter = el("input", {
    type: "search",
    placeholder: "filter modules",
    "aria-label": "Filter modules and kinds",
  });
  const merge = el("input", { type: "checkbox", checked: true, onchange: draw });
  const heads = ["name", "before", "after", "grew"];
  let by = "grew",
    down = true;
  const headings = heads.map((name) =>
    el(
      "th",
      { scope: "col" },
      button(name, () => {
        down = by === name ? !down : name !== "name";
        by = name;
        draw();
      }),
    ),
  );
  const columns = el("div", { className: "columns" });
  const grew = el(
    "div",
    { className: "grew rows", tabIndex: 0, role: "region", "aria-label": "What grew" },
    el(
      "table",
      {},
      el(
        "caption",
        { className: "hidden" },
        "Bytes at the worst moment and persistent bytes, by module and kind",
      ),
      el("thead", {}, el("tr", {}, headings)),
      body,
    ),
  );
  app.append(
    ...data.difference.map((line) => el("p", {}, line)),
    el("h2", {}, "What grew: bytes at the worst moment, and persistent bytes"),
    el("div", { className: "filters" }, filter, el("label", {}, merge, " layers as one")),
    grew,
    columns,
  );
  const name = (change) =>
    change.sort === "module" ? change.name || TOP : `all of the kind ${change.name}`;
  const values = {
    name,
    before: (c) => c.before,
    after: (c) => c.after,
    grew: (c) => c.after - c.before,
  };

  function draw() {
    const key = values[by],
      low = filter.value.toLowerCase();
    const rows = (merge.checked ? merged(data.changes) : [...data.changes]).filter((change) =>
      name(change).toLowerCase().includes(low),
    );
    rows.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (down ? -1 : 1));
    headings.forEach((heading, i) => {
      if (heads[i] === by) heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    });
    body.replaceChildren(
      ...rows.map((change) =>
        el(
          "tr",
          {},
          el(
            "td",
            {},
            change.sort === "module"
              ? button(
                  name(change),
                  () => acts.forEach((act) => act({ module: change.name, text: "" })),
                  { className: "link" },
                )
              : name(change),
          ),
          ...[change.before, change.after].map((bytes) =>
            el("td", { className: "number" }, showBytes(bytes)),
          ),
          el("td", { className: "number" }, showSigned(change.after - change.before)),
        ),
      ),
    );
  }
  filter.addEventListener("input", draw);
  draw();
  steps.forEach((graphs, i) => {
    const side = el("section", { "aria-label": data.names[i] }, el("h2", {}, data.names[i]));
    columns.append(side);
    acts.push(showStep(side, graphs, data.colours, shared));
  });
}

/** Adds up the changes of layers of one kind. */
function merged(changes) {
  const found = new Map();
  for (const { sort, name, before, after } of changes) {
    const own = sort === "module" ? stem(name) : name,
      key = `${sort} ${own}`;
    const sum = found.get(key) ?? { sort, name: own, before: 0, after: 0 };
    found.set(key, { ...sum, before: sum.before + before, after: sum.after + after });
  }
  return [...found.values()];
}
