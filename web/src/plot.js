// The map: regl-scatterplot on a context of our own, whose code needs no `eval`.
import createRegl from "@plotly/regl";
import createScatterplot, { createRenderer } from "regl-scatterplot";

const EXTENSIONS = [
  "OES_texture_float",
  "OES_element_index_uint",
  "WEBGL_color_buffer_float",
  "EXT_float_blend",
];
// So that no point lies on the edge.
const MARGIN = 1.08;

// regl writes functions for what it draws. Those that were recorded are in `code`; others would need
// what the page's policy forbids.
export function createPlot(canvas, code) {
  const buffer = document.createElement("canvas");
  const gl = buffer.getContext("webgl", { antialias: true, preserveDrawingBuffer: true });
  if (gl === null) throw new Error("no WebGL");
  const missing = EXTENSIONS.filter((extension) => !gl.getExtension(extension));
  if (missing.length) throw new Error(`WebGL without ${missing.join(", ")}`);
  const regl = createRegl({ gl, extensions: EXTENSIONS, cachedCode: code });
  const renderer = createRenderer({ canvas: buffer, regl });
  const plot = createScatterplot({
    renderer,
    canvas,
    colorBy: "valueA",
    // In order: a lasso selects, and ends then.
    syncEvents: true,
    lassoInitiator: false,
    lassoOnLongPress: false,
    lassoMinDelay: 0,
    deselectOnDblClick: false,
    deselectOnEscape: false,
    spatialIndexUseWorker: false,
    opacityInactiveMax: 1,
    opacityInactiveScale: 0.12,
  });
  // A renderer whose context is not its own keeps the size that it is given.
  new ResizeObserver(() => {
    renderer.resize(canvas.clientWidth, canvas.clientHeight);
    renderer.refresh();
  }).observe(canvas);
  renderer.resize(canvas.clientWidth, canvas.clientHeight);
  return { plot, buffer };
}

// Of a few points large, of many small, in CSS pixels; those that are selected have an outline.
export function sizes(count) {
  const pointSize = Math.max(2.5, Math.min(14, 60 / count ** 0.25));
  return { pointSize, pointSizeSelected: pointSize / 5, pointOutlineWidth: Math.min(2, pointSize / 4) };
}

export const opacity = (count) => Math.max(0.35, Math.min(0.95, 3.2 / count ** 0.2));

// Everything there is, in a window of any shape.
export function wholeView(plot, smooth) {
  const area = { x: -MARGIN, y: -MARGIN, width: 2 * MARGIN, height: 2 * MARGIN };
  return plot.zoomToArea(area, { transition: smooth, transitionDuration: 250 });
}

export function pan(plot, right, up) {
  const distance = plot.get("cameraDistance");
  const [x, y] = plot.get("cameraTarget");
  return plot.zoomToLocation([x + 0.2 * distance * right, y + 0.2 * distance * up], distance);
}

export const zoom = (plot, factor) =>
  plot.zoomToLocation(plot.get("cameraTarget"), plot.get("cameraDistance") * factor);

// Colours of the page's style sheet, which has those of light and of dark.
export function applyTheme(plot, palette, style) {
  const named = (name) => style.getPropertyValue(name).trim();
  plot.set({
    backgroundColor: named("--map"),
    // As many of each, or the library takes the first for all.
    pointColor: palette,
    pointColorActive: palette,
    pointColorHover: palette.map(() => named("--strong")),
    lassoColor: named("--accent"),
  });
}
