// Numbers as people read them, and elements.

const UNITS = [
  ["TiB", 2 ** 40],
  ["GiB", 2 ** 30],
  ["MiB", 2 ** 20],
  ["KiB", 2 ** 10],
  ["B", 1],
];
const TOP = "(top level)"; // the module with the empty path

const unitOf = (bytes) => UNITS.find(([, factor]) => Math.abs(bytes) >= factor) ?? UNITS.at(-1);

function showBytes(bytes) {
  const [unit, factor] = unitOf(bytes);
  return factor === 1 ? `${bytes} B` : `${(bytes / factor).toFixed(2)} ${unit}`;
}

const showSigned = (bytes) => `${bytes < 0 ? "−" : "+"}${showBytes(Math.abs(bytes))}`;
const showCount = (n) => n.toLocaleString("en");
const showShare = (part, whole) => (whole ? `${((100 * part) / whole).toFixed(1)} %` : "");

const showLife = (lower, upper) => `[${showCount(lower)}, ${showCount(upper)})`;

function showSeconds(s) {
  if (s === 0) return "0 s";
  const [unit, factor] = [
    ["s", 1],
    ["ms", 1e-3],
  ].find(([, f]) => s >= f) ?? ["µs", 1e-6];
  return `${(s / factor).toPrecision(3)} ${unit}`;
}

/** el("button", { type: "button", onclick }, "text", child): an element; null children are left out. */
function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null));
  return made;
}

const button = (text, onclick, more = {}) =>
  el("button", { type: "button", onclick, ...more }, text);
