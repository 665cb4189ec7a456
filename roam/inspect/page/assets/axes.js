// The scales of the charts, and the strip below them with its brush.

const TICK_ROOM = 110; // pixels for each tick of the time axis

/** A scale of bytes whose ticks are round in the unit of its largest number. */
function bytesAxis(scale, ticks) {
  const [unit, factor] = unitOf(Math.max(...scale.domain().map(Math.abs)));
  const domain = scale.domain().map((bytes) => bytes / factor);
  return d3
    .axisLeft(d3.scaleLinear(domain, scale.range()))
    .ticks(ticks)
    .tickFormat((n) => `${+n.toPrecision(6)} ${unit}`);
}

/** Returns the SVG of all axes, and a function that draws them for the scales of the moment. */
function makeAxes(panels, marks, hasOutside) {
  const svg = d3.create("svg").attr("aria-hidden", "true").attr("class", "axes");
  const group = (name) => svg.append("g").attr("class", name);
  const [time, address, bytes, names] = ["time", "address", "bytes", "names"].map(group);

  /** The texts beside the axes: each with its place, and the end at which it stands there. */
  function texts(unit) {
    const { left, right, arena, curve } = panels;
    const rows = marks.map(({ name }, i) => ({
      text: name,
      x: left - 6,
      y: panels.marks.top + (i + 0.8) * MARK_HEIGHT,
    }));
    const outside = "above the dotted line: outside the arena, stacked for the picture";
    return [
      ...rows,
      { text: "address", x: left, y: arena.top - 9 },
      { text: "held", x: left, y: curve.top - 7 },
      { text: `time, ${unit}`, x: right, y: panels.height - 4 },
      ...(hasOutside ? [{ text: outside, x: left + 6, y: arena.top + 12, anchor: "start" }] : []),
    ];
  }

  function draw({ x, y, curveY, unit }) {
    const count = Math.max(2, Math.round((panels.right - panels.left) / TICK_ROOM));
    const below = d3.axisBottom(x).ticks(count);
    if (unit === "seconds") below.tickFormat(showSeconds);
    else below.tickValues(x.ticks(count).filter(Number.isInteger)).tickFormat(showCount);
    svg.attr("width", panels.right + MARGIN.right).attr("height", panels.height);
    time.attr("transform", `translate(0,${panels.curve.bottom})`).call(below);
    address.attr("transform", `translate(${panels.left},0)`).call(bytesAxis(y, 8));
    bytes.attr("transform", `translate(${panels.left},0)`).call(bytesAxis(curveY, 4));
    names
      .selectAll("text")
      .data(texts(unit))
      .join("text")
      .text((d) => d.text)
      .attr("x", (d) => d.x)
      .attr("y", (d) => d.y)
      .attr("text-anchor", (d) => d.anchor ?? "end");
  }
  return { node: svg.node(), draw };
}

/** The whole step in a strip. Its brush shows what is visible, and chooses it. */
function makeStrip(panels, view) {
  const svg = d3.create("svg").attr("class", "strip").attr("aria-hidden", "true");
  const curve = svg.append("path");
  const brushed = svg.append("g");
  const [top, bottom] = [2, STRIP_HEIGHT - 2];
  let byHand = false; // then the window follows the brush, and otherwise the brush the window
  const brush = d3
    .brushX()
    .on("start", ({ sourceEvent }) => {
      if (sourceEvent) byHand = true;
    })
    .on("brush", ({ selection, sourceEvent }) => {
      if (sourceEvent) view.show(...selection.map(view.whole().invert));
    })
    .on("end", ({ selection, sourceEvent }) => {
      if (!sourceEvent) return;
      byHand = false;
      if (!selection) view.reset(); // a click beside the brush
    });

  return {
    node: svg.node(),
    /** `domain`: of the bytes. */
    resize(held, position, domain) {
      const { left, right } = panels;
      svg.attr("width", right + MARGIN.right).attr("height", STRIP_HEIGHT);
      const y = d3.scaleLinear(domain, [bottom, top]);
      const corners = steps(held, position, view.whole(), y, panels);
      const path = corners.map(([px, py]) => `L${px.toFixed(1)} ${py.toFixed(1)}`).join("");
      curve.attr("d", `M${left} ${bottom}${path}L${right} ${bottom}Z`);
      const extent = [
        [left, top],
        [right, bottom],
      ];
      brushed.call(brush.extent(extent));
    },
    follow(x) {
      if (byHand) return;
      const [a, b] = [panels.left, panels.right].map((px) => view.whole()(x.invert(px)));
      brush.move(brushed, [Math.max(a, panels.left), Math.min(b, panels.right)]);
    },
  };
}
