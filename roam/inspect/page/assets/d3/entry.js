// The parts of d3 that the page uses; README.md says how they become d3.min.js.
export { axisBottom, axisLeft } from "d3-axis";
export { brushX } from "d3-brush";
export { hierarchy } from "d3-hierarchy";
export { scaleLinear } from "d3-scale";
export { create, pointer, select } from "d3-selection";
export { zoom, zoomIdentity, zoomTransform } from "d3-zoom";
