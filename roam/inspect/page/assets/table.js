// The table of a moment: every row that adds up to the bytes held then; it sorts and filters.

const SHOWN = 100; // rows at first
const COLUMNS = [
  // heading, value to sort by, cell
  ["leave out", null, null],
  ["bytes", (r) => r.size, (r) => showBytes(r.size)],
  ["share", (r) => r.size, (r, held) => showShare(r.size, held)],
  [
    "address",
    (r) => r.address ?? -1,
    (r) => (r.address === null ? (r.buffer === null ? "" : "outside") : showBytes(r.address)),
  ],
  ["tensor", (r) => r.name, null],
  ["kind", (r) => r.kind, (r) => r.kind],
  ["module", (r) => r.module, (r) => r.module || (r.kind === FRAGMENTATION ? "" : TOP)],
  ["made by op", (r) => r.maker, (r) => r.maker],
  ["alive in ops", (r) => r.lower, (r) => (r.buffer === null ? "" : showLife(r.lower, r.upper))],
];

/** Whether a module is a path or lies within it. A path with `*` stands for all layers of a kind. */
function within(module, path) {
  if (path === null || path === "") return true;
  const own = path.includes("*") ? stem(module) : module;
  return own === path || own.startsWith(`${path}.`);
}

function matchesText(row, text) {
  const low = text.toLowerCase();
  return [row.name, row.kind, row.module, row.maker].some((part) =>
    part.toLowerCase().includes(low),
  );
}

function makeTable(host, plan, state, act) {
  const filter = el("input", {
    type: "search",
    placeholder: "filter rows",
    "aria-label": "Filter the rows by tensor, kind, module or op",
  });
  const scope = el("span", { className: "scope" });
  const total = el("output", { className: "total" });
  const body = el("tbody"),
    more = el("div");
  const headings = COLUMNS.map(([name, key]) =>
    el("th", { scope: "col" }, key ? button(name, () => sortBy(name)) : name),
  );
  const table = el(
    "table",
    {},
    el("caption", { className: "hidden" }, "What is alive at the chosen moment"),
    el("thead", {}, el("tr", {}, headings)),
    body,
  );
  const leave = button("leave these out", () => act({ left: new Set([...state.left, ...listed]) }));
  host.append(
    el("div", { className: "filters" }, filter, scope, total, leave),
    el(
      "div",
      {
        className: "rows",
        tabIndex: 0,
        role: "region",
        "aria-label": "What is alive at the chosen moment",
      },
      table,
    ),
    more,
  );
  let limit = SHOWN,
    listed = []; // buffers

  filter.addEventListener("input", () => act({ text: filter.value }));
  const sortBy = (name) => {
    const [by, down] = state.sort;
    act({
      sort: [
        name,
        by === name ? !down : name === "bytes" || name === "share" || name === "address",
      ],
    });
  };

  function leaveOut(row) {
    return el("input", {
      type: "checkbox",
      checked: state.left.has(row.buffer),
      "aria-label": `Leave out ${row.name}`,
      onchange: (event) => {
        const left = new Set(state.left);
        if (event.target.checked) left.add(row.buffer);
        else left.delete(row.buffer);
        act({ left });
      },
    });
  }

  function line(row, held) {
    const cells = COLUMNS.map(([name, , cell]) => {
      if (name === "leave out") return el("td", {}, row.buffer === null ? null : leaveOut(row));
      if (name === "tensor") {
        return el(
          "td",
          {},
          row.buffer === null
            ? row.name
            : button(row.name, () => act({ buffer: row.buffer }), { className: "link" }),
        );
      }
      const number = ["bytes", "share", "address"].includes(name),
        text = cell(row, held);
      return el("td", number ? { className: "number" } : { title: text }, text); // long texts are cut off
    });
    return el(
      "tr",
      { className: row.buffer !== null && row.buffer === state.buffer ? "chosen" : "" },
      cells,
    );
  }

  return function render(changed) {
    if (!["t", "module", "text", "sort", "left", "buffer", "first"].some((key) => changed.has(key)))
      return;
    if (["t", "module", "text", "first"].some((key) => changed.has(key))) limit = SHOWN;
    const held = plan.held[state.t],
      every = plan.moment(state.t);
    const rows = every.filter(
      (row) => within(row.module, state.module) && matchesText(row, state.text),
    );
    listed = rows.map((row) => row.buffer).filter((b) => b !== null);
    leave.hidden = rows.length === every.length;
    const [by, down] = state.sort,
      [, key] = COLUMNS.find(([name]) => name === by);
    rows.sort(
      (a, b) =>
        (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (down ? -1 : 1) || b.size - a.size,
    );
    headings.forEach((heading, i) => {
      if (COLUMNS[i][0] === by)
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    });
    const sum = rows.reduce((bytes, row) => bytes + row.size, 0);
    total.textContent = `${showCount(rows.length)} of ${showCount(every.length)} rows, ${showBytes(sum)} of ${showBytes(held)} held`;
    total.dataset.bytes = sum;
    total.dataset.op = state.t;
    if (filter.value !== state.text) filter.value = state.text;
    scope.replaceChildren(
      ...(state.module === null
        ? []
        : [`in ${state.module || TOP} `, button("all modules", () => act({ module: null }))]),
    );
    body.replaceChildren(...rows.slice(0, limit).map((row) => line(row, held)));
    more.replaceChildren(
      ...(rows.length <= limit
        ? []
        : [
            button(`show ${showCount(rows.length - limit)} more rows`, () => {
              limit = Infinity;
              render(new Set(["sort"]));
            }),
          ]),
    );
  };
}
