// What a buffer looks like: by kind or by module, in light and in dark.

const OTHER = "#999999"; // modules beyond the largest
// Okabe and Ito's palette: its colours differ for every kind of colour vision
const DISTINCT = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442"];

/** Layers of one kind are one module here: `h.3.mlp` and `h.7.mlp` are `h.*.mlp`. */
const stem = (path) => path.replace(/(^|\.)\d+(?=\.|$)/g, "$1*");

/** Returns the colour of each buffer of the step, and the legend. `kindColours` is by name. */
function coloursOf(plan, by, kindColours) {
  const steps = Array.from({ length: plan.inStep }, (_, b) => b);
  if (by === "kind") {
    const here = new Set(steps.map((b) => plan.kind(b)));
    return {
      of: steps.map((b) => kindColours[plan.kind(b)]),
      legend: Object.entries(kindColours).filter(([kind]) => here.has(kind)),
    };
  }
  const weight = new Map(); // bytes times ops
  for (const b of steps) {
    const name = stem(plan.module(b));
    const area = plan.buffers.size[b] * (plan.until[b] - plan.lower[b]);
    weight.set(name, (weight.get(name) ?? 0) + area);
  }
  const ranked = [...weight].sort((a, b) => b[1] - a[1]).map(([name]) => name);
  const colour = new Map(ranked.map((name, i) => [name, DISTINCT[i] ?? OTHER]));
  const legend = ranked.slice(0, DISTINCT.length).map((name) => [name || TOP, colour.get(name)]);
  const rest = ranked.length - legend.length;
  if (rest > 0) legend.push([`${rest} more modules`, OTHER]);
  return { of: steps.map((b) => colour.get(stem(plan.module(b)))), legend };
}

/** The colours that the theme gives to lines and texts of a canvas. */
function themeOf(host) {
  const style = getComputedStyle(host);
  const names = ["paper", "ink", "faint", "held", "live", "bound", "without", "mark"];
  return Object.fromEntries(
    names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]),
  );
}
