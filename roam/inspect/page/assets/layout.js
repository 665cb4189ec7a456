// Where the charts lie on their canvas, in pixels, and the rows of marks between them.

const MARGIN = { left: 84, right: 26, top: 22 };
const ARENA_HEIGHT = 340;
const CURVE_HEIGHT = 150;
const MARK_HEIGHT = 14;
const AXIS_HEIGHT = 34;
const STRIP_HEIGHT = 36;

/** The panels of a canvas: arena, marks and curve, each { top, bottom }; left, right and height. */
function panelsOf(marks) {
  const arena = { top: MARGIN.top, bottom: MARGIN.top + ARENA_HEIGHT };
  const rows = { top: arena.bottom + 6, bottom: arena.bottom + 6 + marks.length * MARK_HEIGHT };
  const curve = { top: rows.bottom + 18, bottom: rows.bottom + 18 + CURVE_HEIGHT };
  const height = curve.bottom + AXIS_HEIGHT;
  return { arena, marks: rows, curve, left: MARGIN.left, right: MARGIN.left, height };
}

/** The rows of marks that a plan has: what runs again, what moves, what is folded. */
function marksOf(plan) {
  const all = Array.from({ length: plan.n }, (_, t) => t);
  const times = (what) => all.filter((t) => plan.is(t, what));
  const bars = (lane) => {
    const name = (t) => plan.ops.name[t].replace(/\.(start|wait)$/, "");
    const waits = new Map(
      times(lane)
        .filter((t) => plan.is(t, IS.waits))
        .map((t) => [name(t), t]),
    );
    const starts = times(lane).filter((t) => plan.is(t, IS.starts));
    return starts.map((t) => [t, waits.get(name(t)) ?? t]);
  };
  const rows = [
    { name: "run again", times: times(IS.copy), bars: [], colour: "bound" },
    { name: "moved out", times: [], bars: bars(IS.out), colour: "live" },
    { name: "moved back", times: [], bars: bars(IS.back), colour: "without" },
    { name: "folds", times: times(IS.fold), bars: [], colour: "ink" },
  ];
  return rows.filter((row) => row.times.length || row.bars.length);
}
