// The part of the step that is shown: a window in time and in addresses, moved by d3's zoom.

/**
 * Zooms time and addresses apart: each has a d3.zoom of its own on an element that nobody sees, and
 * the one on `stage` only hands gestures on (observablehq.com/@d3/x-y-zoom has the idea).
 *
 * @param box {left, right, top, bottom} of the plot in pixels, as it is now
 * @param onchange called after each change
 */
function makeWindow(stage, box, onchange) {
  const x0 = d3.scaleLinear(),
    y0 = d3.scaleLinear(); // of the whole plan
  const hidden = {
    x: d3.select(document.createElement("i")),
    y: d3.select(document.createElement("i")),
  };
  const extent = () => [
    [box().left, box().top],
    [box().right, box().bottom],
  ];
  const one = () => d3.zoom().extent(extent).on("zoom", onchange);
  const zoom = { x: one(), y: one() };
  const transform = (axis) => d3.zoomTransform(hidden[axis].node());
  const centre = (axis) => {
    const [[left, top], [right, bottom]] = extent();
    return axis === "x" ? [(left + right) / 2, top] : [left, (top + bottom) / 2];
  };

  let last = d3.zoomIdentity;
  const gestures = d3
    .zoom()
    .extent(extent)
    .on("zoom", (event) => {
      const now = event.transform,
        factor = now.k / last.k,
        source = event.sourceEvent;
      const [px, py] =
        source && source.type !== "touchmove" ? d3.pointer(source, stage) : [null, null];
      const inArena = py === null || py <= box().bottom;
      if (factor === 1) {
        hidden.x.call(zoom.x.translateBy, (now.x - last.x) / transform("x").k, 0);
        if (inArena) hidden.y.call(zoom.y.translateBy, 0, (now.y - last.y) / transform("y").k);
      } else {
        const axis = inArena && (source?.shiftKey || (px !== null && px < box().left)) ? "y" : "x";
        hidden[axis].call(zoom[axis].scaleBy, factor, px === null ? centre(axis) : [px, py]);
      }
      last = now;
    });
  // with Shift held, browsers turn the wheel sideways
  gestures.wheelDelta(
    (e) => -(e.deltaY || e.deltaX) * (e.deltaMode === 1 ? 0.05 : e.deltaMode ? 1 : 0.002),
  );
  d3.select(stage)
    .call(gestures)
    .on("dblclick.zoom", () => view.reset());

  const view = {
    x: () => transform("x").rescaleX(x0),
    y: () => transform("y").rescaleY(y0),
    whole: () => x0.copy(),
    /** Lays out anew: `time` is the length of the step, `top` the highest address. */
    fit(time, top) {
      const { left, right, top: above, bottom } = box();
      x0.domain([0, time]).range([left, right]);
      y0.domain([0, top]).range([bottom, above]);
      for (const axis of ["x", "y"]) {
        zoom[axis]
          .translateExtent(extent())
          .scaleExtent([1, axis === "x" ? Math.max(2, time * 20) : 1e6]);
      }
    },
    scale: (axis, factor, at) => hidden[axis].call(zoom[axis].scaleBy, factor, at ?? centre(axis)),
    /** Moves by a share of what is visible. */
    pan(axis, share) {
      const [[left, top], [right, bottom]] = extent(),
        k = transform(axis).k;
      const by =
        axis === "x" ? [(-share * (right - left)) / k, 0] : [0, (share * (bottom - top)) / k];
      hidden[axis].call(zoom[axis].translateBy, ...by);
    },
    /** Shows the times from `a` to `b`. */
    show(a, b) {
      const k = (x0.range()[1] - x0.range()[0]) / Math.max(x0(b) - x0(a), 1e-9);
      const place = d3.zoomIdentity.translate(x0.range()[0], 0).scale(k).translate(-x0(a), 0);
      hidden.x.call(zoom.x.transform, place);
    },
    reset() {
      hidden.x.call(zoom.x.transform, d3.zoomIdentity);
      hidden.y.call(zoom.y.transform, d3.zoomIdentity);
    },
  };
  return view;
}
