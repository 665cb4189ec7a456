// Paints the arena, the marks and the curves of a plan on one canvas. SVG would be simpler, but a
// browser does not move ten thousand of its elements thirty times a second.

const EDGED = 4; // pixels from which a rectangle gets a gap around it
const DIM = 0.15; // opacity of what does not match

/**
 * @param scene { plan, state, position, x, y, curveY, panels, colours, marks, theme }
 *   position: by op, where it begins on the time axis, and where the last one ends
 *   panels: { arena, marks, curve }, each { top, bottom } in pixels; left and right
 */
function paint(context, scene) {
  const { panels } = scene;
  context.clearRect(0, 0, panels.right + 100, panels.curve.bottom + 100);
  for (const [panel, draw] of [
    ["arena", paintArena],
    ["marks", paintMarks],
    ["curve", paintCurve],
  ]) {
    const { top, bottom } = panels[panel];
    context.save();
    context.beginPath();
    context.rect(panels.left, top, panels.right - panels.left, bottom - top);
    context.clip();
    draw(context, scene);
    paintMoment(context, scene, top, bottom);
    context.restore();
  }
}

function paintArena(context, { plan, position, x, y, panels, colours, theme, state }) {
  const rectangle = (b) => {
    const left = x(position[plan.lower[b]]),
      right = x(position[plan.until[b]]);
    const top = y(plan.height(b) + plan.buffers.size[b]);
    const bottom = y(plan.height(b));
    return { left, right, top, bottom };
  };
  for (let b = 0; b < plan.inStep; b++) {
    const { left, right, top, bottom } = rectangle(b);
    if (
      right < panels.left ||
      left > panels.right ||
      bottom < panels.arena.top ||
      top > panels.arena.bottom
    )
      continue;
    const gap = right - left > EDGED && bottom - top > EDGED ? 0.5 : 0;
    context.fillStyle = colours[b];
    context.globalAlpha = state.matches && !state.matches[b] ? DIM : 1;
    context.fillRect(
      left + gap,
      top + gap,
      Math.max(right - left - 2 * gap, 0.7),
      Math.max(bottom - top - 2 * gap, 0.7),
    );
  }
  context.globalAlpha = 1;
  context.strokeStyle = theme.ink;
  context.lineWidth = 1;
  for (const [offset, size, lower, upper] of plan.blocks) {
    const top = y(offset + size),
      bottom = y(offset);
    const left = x(position[lower]),
      right = x(position[upper]);
    if (bottom - top > 2 * EDGED) context.strokeRect(left, top, right - left, bottom - top);
  }
  context.setLineDash([2, 3]);
  line(context, panels.left, y(plan.arena), panels.right, y(plan.arena));
  for (const start of plan.phases.slice(1)) {
    line(context, x(position[start]), panels.arena.top, x(position[start]), panels.arena.bottom);
  }
  context.setLineDash([]);
  if (state.buffer !== null && state.buffer < plan.inStep) {
    const { left, right, top, bottom } = rectangle(state.buffer);
    for (const [colour, width] of [
      [theme.paper, 5],
      [theme.mark, 2.5],
    ]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.strokeRect(left, top, Math.max(right - left, 2), Math.max(bottom - top, 2));
    }
  }
}

/** Ticks for copies and folds, bars from the start of a transfer to its wait. */
function paintMarks(context, { plan, position, x, panels, theme, marks }) {
  const middle = (t) => (x(position[t]) + x(position[t + 1])) / 2;
  marks.forEach(({ times, bars, colour }, row) => {
    const top = panels.marks.top + row * MARK_HEIGHT + 3,
      height = MARK_HEIGHT - 5;
    context.fillStyle = theme[colour];
    for (const t of times) context.fillRect(middle(t) - 1, top, 2, height);
    for (const [from, to] of bars)
      context.fillRect(middle(from), top, Math.max(middle(to) - middle(from), 2), height);
  });
}

function paintCurve(context, { plan, position, x, curveY, panels, theme, state }) {
  const bottom = curveY(0);
  const held = steps(plan.held, position, x, curveY, panels);
  context.fillStyle = theme.held;
  context.beginPath();
  context.moveTo(panels.left, bottom);
  held.forEach(([px, py]) => context.lineTo(px, py));
  context.lineTo(panels.right, bottom);
  context.fill();
  stroke(context, held, theme.ink, 1.2);
  stroke(context, steps(plan.live, position, x, curveY, panels), theme.live, 1.2);
  if (state.less)
    stroke(context, steps(state.less.curve, position, x, curveY, panels), theme.without, 2);
  context.strokeStyle = theme.bound;
  context.lineWidth = 1.2;
  context.setLineDash([6, 4]);
  line(context, panels.left, curveY(plan.bound), panels.right, curveY(plan.bound));
  context.setLineDash([]);
  const px = (x(position[plan.worst]) + x(position[plan.worst + 1])) / 2,
    py = curveY(plan.peak);
  context.fillStyle = theme.ink;
  context.beginPath();
  context.arc(px, py, 4, 0, 7);
  context.fill();
  label(context, `peak ${showBytes(plan.peak)}`, px, py, panels, theme);
  const backward = plan.phases.length === 2 ? x(position[plan.phases[1]]) : null;
  if (backward !== null) {
    context.setLineDash([2, 3]);
    context.lineWidth = 1;
    context.strokeStyle = theme.ink;
    line(context, backward, panels.curve.top, backward, panels.curve.bottom);
    context.setLineDash([]);
    label(context, "backward", backward, panels.curve.bottom - 8, panels, theme);
  }
}

function paintMoment(context, { position, x, state, theme }, top, bottom) {
  const left = x(position[state.t]),
    right = x(position[state.t + 1]);
  context.globalAlpha = 0.12;
  context.fillStyle = theme.mark;
  context.fillRect(left, top, right - left, bottom - top);
  context.globalAlpha = 1;
  context.strokeStyle = theme.mark;
  context.lineWidth = 1.5;
  line(context, (left + right) / 2, top, (left + right) / 2, bottom);
}

/** The corners of a curve on the screen. Of several ops in one pixel the highest counts. */
function steps(curve, position, x, y, panels) {
  const corners = [];
  let column = null,
    highest = 0;
  for (let t = 0; t < curve.length; t++) {
    const left = Math.max(x(position[t]), panels.left),
      right = Math.min(x(position[t + 1]), panels.right);
    if (right < panels.left || left > panels.right || left > right) continue;
    if (right - left >= 1) {
      if (column !== null) corners.push([column, y(highest)], [left, y(highest)]);
      corners.push([left, y(curve[t])], [right, y(curve[t])]);
      column = null;
    } else if (column === null || left >= column + 1) {
      if (column !== null) corners.push([column, y(highest)], [left, y(highest)]);
      column = left;
      highest = curve[t];
    } else {
      highest = Math.max(highest, curve[t]);
    }
  }
  if (column !== null)
    corners.push([column, y(highest)], [Math.min(column + 1, panels.right), y(highest)]);
  return corners;
}

function stroke(context, corners, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.beginPath();
  corners.forEach(([px, py]) => context.lineTo(px, py));
  context.stroke();
}

function line(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

/** Writes beside a point, on the side that has more room. */
function label(context, text, px, py, panels, theme) {
  const right = px > (panels.left + panels.right) / 2;
  context.font = "12px system-ui, sans-serif";
  context.textAlign = right ? "right" : "left";
  context.textBaseline = "middle";
  context.lineWidth = 4;
  context.strokeStyle = theme.paper;
  context.fillStyle = theme.ink;
  const place = [text, px + (right ? -8 : 8), Math.max(py, panels.curve.top + 8)];
  context.strokeText(...place);
  context.fillText(...place);
}
