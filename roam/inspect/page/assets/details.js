// One buffer: what it is, who makes and reads it, why it is alive, what would remove it.

const READERS = 8; // that are listed

function makeDetails(host, plan, state, act) {
  const opLink = (t) =>
    button(`${plan.ops.name[t]} (op ${showCount(t)})`, () => act({ t }), { className: "link" });
  const bufferLink = (b) =>
    button(plan.buffers.name[b], () => act({ buffer: b }), { className: "link" });
  const spread = (parts, between) => parts.flatMap((part, i) => (i ? [between, part] : [part]));

  /** Sentences: why the buffer is alive at the chosen moment. */
  function reasons(b) {
    const t = state.t;
    if (b >= plan.inStep) return ["It is there before the step and after it."];
    if (t < plan.lower[b] || t >= plan.upper[b]) return ["It is not alive at the chosen moment."];
    const why = plan.why(b, t);
    const head = why.sure ? "In every order: " : "In this order, not in every one: ";
    const made =
      why.made === t
        ? "this op makes it"
        : why.isBefore
          ? el("span", {}, opLink(why.made), " makes it and must run before this op")
          : el("span", {}, opLink(why.made), " makes it, and could run after this op");
    let used;
    if (why.kept) used = "you hold it to the end of the step";
    else if (why.forced === t) used = why.made === t ? "nobody uses it" : "this op uses it";
    else if (why.forced !== undefined)
      used = el("span", {}, opLink(why.forced), " uses it and must run after this op");
    else
      used = el(
        "span",
        {},
        "all that use it, the last one ",
        opLink(why.last),
        ", could run before this op",
      );
    return [el("span", {}, head, made, "; ", used, ".")];
  }

  /** Sentences: what would remove the buffer from the chosen moment, as far as the plan knows. */
  function cures(b) {
    const found = [],
      t = state.t,
      made = plan.buffers.made[b],
      kind = plan.kind(b),
      size = plan.buffers.size[b];
    if (b >= plan.inStep || t < plan.lower[b] || t >= plan.upper[b]) return found;
    if (kind === "gradient")
      found.push(
        "Fold: an optimizer of roam.optim absorbs a gradient in the backward and frees it at once.",
      );
    if (kind === "output")
      found.push("It is returned to you: what is not needed should not be returned.");
    found.push(...plan.offers(b).map((sentence) => `Option: ${sentence}.`));
    const next = plan.uses[b].find((u) => u > t),
      last = plan.uses[b].filter((u) => u < t).at(-1) ?? made;
    if (KEPT.has(kind) || next === undefined || last === t || made === t) return found;
    if (plan.is(made, IS.mayRunAgain)) {
      const cost = plan.ops.cost[made] ? `, ${showSeconds(plan.ops.cost[made])}` : "";
      const gone = plan.touches[made].reads.filter((r) => r < plan.inStep && plan.upper[r] <= next);
      const needs = gone.length
        ? [
            " What it reads is gone by then and would have to be kept or made again, too: ",
            ...spread(gone.slice(0, READERS).map(bufferLink), ", "),
            ".",
          ]
        : [" All that it reads is still alive then."];
      found.push(
        el(
          "span",
          {},
          "Recompute: ",
          opLink(made),
          ` may run again${cost}, before `,
          opLink(next),
          ".",
          ...needs,
        ),
      );
    } else {
      found.push(
        el(
          "span",
          {},
          "It cannot be recomputed: ",
          opLink(made),
          " has effects, draws random numbers or changes what it reads.",
        ),
      );
    }
    found.push(offload(size, last, next));
    return found;
  }

  function offload(size, last, next) {
    const idle = `nobody uses it for ${showCount(next - last - 1)} ops`;
    if (!plan.begin) return `Offload: ${idle}.`;
    const gap = plan.begin[next] - plan.begin[last + 1];
    if (!plan.link || !plan.link.every((rate) => rate > 0)) {
      return gap > 0
        ? `Offload: ${idle}, ${showSeconds(gap)}: there and back unnoticed at ${showBytes(Math.ceil((2 * size) / gap))} a second or more.`
        : `Offload: ${idle}, which takes no time.`;
    }
    const takes = size / plan.link[0] + size / plan.link[1];
    return `Offload: ${idle}, ${showSeconds(gap)}; there and back takes ${showSeconds(takes)} by the rates of this plan, if nothing else moves.`;
  }

  return function render(changed) {
    if (!["t", "buffer", "first"].some((key) => changed.has(key))) return;
    const b = state.buffer;
    if (b === null) {
      host.replaceChildren(
        el(
          "p",
          { className: "hint" },
          "Choose a tensor in the arena, in the table or by searching.",
        ),
      );
      return;
    }
    const { made, size } = plan.buffers,
      readers = plan.uses[b],
      chain = plan.chain(b);
    const out = (text, buffers) =>
      button(text, () => act({ left: new Set([...state.left, ...buffers]) }));
    const chained =
      chain.length < 2
        ? ""
        : el(
            "span",
            {},
            ...spread(chain.map(bufferLink), " → "),
            " are written over one another. ",
            out("leave out all of them", chain),
          );
    const rows = [
      ["module", plan.module(b) || TOP],
      ["what", [plan.kind(b), showBytes(size[b]), plan.form(b)].filter(Boolean).join(", ")],
      [
        "address",
        b >= plan.inStep
          ? "yours"
          : plan.isPlaced(b)
            ? `${showBytes(plan.address(b))} in the arena`
            : "outside the arena: it allocates for itself",
      ],
      ["same place", chained],
      ["alive", `ops ${showLife(plan.lower[b], plan.upper[b])}`],
      [
        "made by",
        made[b] < 0
          ? "nobody in this step"
          : el("span", {}, opLink(made[b]), ` in ${plan.opModule(made[b]) || TOP}`),
      ],
      ["of", made[b] < 0 ? "" : plan.calls(made[b])],
      ["line", made[b] < 0 ? "" : plan.line(made[b])],
      [
        "used by",
        readers.length
          ? el(
              "span",
              {},
              ...spread(readers.slice(0, READERS).map(opLink), ", "),
              readers.length > READERS ? ` and ${readers.length - READERS} more` : "",
            )
          : "nobody",
      ],
      [`why alive at op ${showCount(state.t)}`, reasons(b)],
      ["what would remove it", cures(b).map((cure) => el("p", {}, cure))],
    ];
    const shown = rows.filter(([, what]) => what instanceof Element || what.length);
    const leave = b < plan.inStep ? out("leave out", [b]) : "";
    host.replaceChildren(
      el("div", { className: "heading" }, el("h3", {}, plan.buffers.name[b]), leave),
      el(
        "dl",
        {},
        shown.flatMap(([name, what]) => [el("dt", {}, name), el("dd", {}, what)]),
      ),
    );
  };
}
