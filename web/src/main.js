import * as data from "./data.js";
import { createList } from "./list.js";
import { createPlayer } from "./player.js";
import { applyTheme, createPlot, opacity, pan, sizes, wholeView, zoom } from "./plot.js";
import code from "./regl-code.js";

const $ = (id) => document.getElementById(id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const darkSystem = matchMedia("(prefers-color-scheme: dark)");

const hidden = new Set(); // colours that are switched off
let lasso = null; // rows in the lasso, or null
let rows = []; // what the list holds, ascending
let hovered = null;
let plot = null;
let moved = false; // whether the view is the reader's own

const narrowed = () => lasso !== null || $("search").value.trim() !== "";

// ---- the list ----

const part = (className, text) => {
  const element = document.createElement("bdi");
  element.className = className;
  element.textContent = text;
  return element;
};

const swatch = (colour) => {
  const element = document.createElement("i");
  element.className = `swatch colour-${colour}`;
  return element;
};

const player = createPlayer(() => list.refresh());

const list = createList($("list"), {
  fill(element, row) {
    element.classList.toggle("played", row === player.played());
    const where = document.createElement("span");
    where.className = "where";
    where.append(part("folder", data.shown(data.folder(row))), part("times", data.times(row)));
    element.append(swatch(data.colour[row]), part("name", data.shown(data.name(row))), where);
    element.title = data.shown(data.path(row));
  },
  act: player.play,
  see: point,
});

function update() {
  const matches = data.matching($("search").value);
  const inLasso = lasso && new Set(lasso);
  const visible = [];
  rows = [];
  for (let row = 0; row < data.count; row++) {
    if (hidden.has(data.colour[row])) continue;
    visible.push(row);
    if ((inLasso === null || inLasso.has(row)) && matches(row)) rows.push(row);
  }
  list.show(rows);
  point(null);
  $("heading").textContent = lasso ? "Selected" : narrowed() ? "Found" : "All clips";
  $("number").textContent = rows.length.toLocaleString("en");
  $("clear").hidden = !narrowed();
  $("download").disabled = !rows.length;
  $("empty").hidden = rows.length > 0;
  $("empty-text").textContent = emptyText();
  $("status").textContent = `${data.counted(rows.length, "clip")} in the list`;
  if (plot === null) return;
  if (hidden.size) plot.filter(visible, { preventEvent: true });
  else plot.unfilter({ preventEvent: true });
  // With nothing selected all points are shown as they are, which must not stand for "none found".
  const none = narrowed() && !rows.length;
  plot.set({ opacity: none ? 0.06 : opacity(data.count) });
  plot.select(narrowed() ? rows : [], { preventEvent: true });
}

function emptyText() {
  if ($("search").value.trim()) return `No clip matches “${data.shown($("search").value.trim())}”.`;
  if (lasso) return "No point is in the lasso.";
  return "All groups are switched off.";
}

function clear() {
  lasso = null;
  $("search").value = "";
  update();
}

function select(found) {
  lasso = found;
  update();
  if (matchMedia("(max-width: 760px)").matches && found.length) {
    $("side").scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
  }
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([data.csv(rows)], { type: "text/csv" }));
  link.download = `${data.title.replace(/\.[^.]*$/, "")}-${lasso ? "selected" : "clips"}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// ---- the card of a point ----

function point(row) {
  hovered = row;
  if (plot) plot.hover(row ?? -1, { preventEvent: true });
  place();
}

function place() {
  const card = $("card");
  const at = hovered === null || plot === null ? null : plot.getScreenPosition(hovered);
  const { clientWidth: width, clientHeight: height } = $("map");
  card.hidden = !at || at[0] < 0 || at[1] < 0 || at[0] > width || at[1] > height;
  if (card.hidden) return;
  const label = part("label", "");
  label.append(swatch(data.colour[hovered]), part("", data.shownLabel(hovered)));
  card.replaceChildren(
    part("name", data.shown(data.name(hovered))),
    part("folder", data.shown(data.folder(hovered))),
    part("times", data.times(hovered)),
    label,
  );
  const left = at[0] + 14 + card.offsetWidth > width ? at[0] - 14 - card.offsetWidth : at[0] + 14;
  card.style.left = `${Math.max(8, left)}px`;
  card.style.top = `${Math.max(8, Math.min(at[1] + 14, height - card.offsetHeight - 8))}px`;
}

// ---- legend ----

for (const [colour, name, number] of data.legend) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-pressed", "true");
  button.title = data.shown(name);
  button.append(swatch(colour), part("name", data.shown(name)), part("count", number.toLocaleString("en")));
  button.addEventListener("click", () => {
    if (!hidden.delete(colour)) hidden.add(colour);
    button.setAttribute("aria-pressed", String(!hidden.has(colour)));
    update();
  });
  $("groups").append(button);
}

// ---- the map ----

const isDark = () => (document.documentElement.dataset.theme ?? (darkSystem.matches ? "dark" : "light")) === "dark";

function theme() {
  const palette = isDark() ? data.dark : data.light;
  palette.forEach((colour, number) => document.documentElement.style.setProperty(`--colour-${number}`, colour));
  $("theme").setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
  $("theme").title = $("theme").getAttribute("aria-label");
  if (plot) applyTheme(plot, palette, getComputedStyle(document.documentElement));
}

function mode(name) {
  if (plot === null) return;
  plot.set({ mouseMode: name });
  $("lasso").setAttribute("aria-pressed", String(name === "lasso"));
  $("map").classList.toggle("drawing", name === "lasso");
}

const toggleLasso = () => mode($("lasso").getAttribute("aria-pressed") === "true" ? "panZoom" : "lasso");

function reset() {
  moved = false;
  wholeView(plot, !calm.matches);
}

function inView() {
  const { clientWidth: width, clientHeight: height } = $("map");
  const found = [];
  for (let row = 0; row < data.count; row++) {
    if (hidden.has(data.colour[row])) continue;
    const [left, top] = plot.getScreenPosition(row);
    if (left >= 0 && left <= width && top >= 0 && top <= height) found.push(row);
  }
  select(found);
}

async function start() {
  let made;
  try {
    made = createPlot($("canvas"), code);
  } catch (error) {
    $("map").classList.add("broken");
    $("broken-reason").textContent = error.message;
    return;
  }
  plot = made.plot;
  plot.set({ ...sizes(data.count), opacity: opacity(data.count) });
  theme();
  plot.subscribe("pointover", (row) => {
    point(row);
    $("map").classList.add("over");
  });
  plot.subscribe("pointout", () => {
    point(null);
    $("map").classList.remove("over");
  });
  let ended = false;
  plot.subscribe("select", ({ points }) => {
    const found = [...points].sort((a, b) => a - b);
    // A lasso ends after its points were selected; a click has no end.
    queueMicrotask(() => {
      if (ended) select(found);
      else click(found);
      ended = false;
    });
  });
  plot.subscribe("lassoEnd", () => {
    ended = true;
    mode("panZoom");
    queueMicrotask(() => {
      // Nothing was selected, and no event came before this one.
      if (ended) select([]);
      ended = false;
    });
  });
  plot.subscribe("view", place);
  made.buffer.addEventListener("webglcontextlost", () => {
    plot = null;
    $("map").classList.add("broken");
    $("broken-reason").textContent = "the graphics card was reset; load the page again";
  });
  await plot.draw({ x: data.x, y: data.y, valueA: data.colour }, { zDataType: "categorical" });
  await wholeView(plot, false);
  for (const event of ["wheel", "pointerdown"]) $("canvas").addEventListener(event, () => (moved = true));
  new ResizeObserver(() => {
    if (plot && !moved) setTimeout(() => wholeView(plot, false), 50);
  }).observe($("map"));
}

// A click selects in the library; here it plays, and what was selected stays.
function click([row]) {
  plot.select(narrowed() ? rows : [], { preventEvent: true });
  if (row === undefined) return;
  list.reveal(row);
  player.play(row);
}

// ---- keys and buttons ----

const mapKeys = {
  ArrowLeft: () => pan(plot, -1, 0),
  ArrowRight: () => pan(plot, 1, 0),
  ArrowUp: () => pan(plot, 0, 1),
  ArrowDown: () => pan(plot, 0, -1),
  "+": () => zoom(plot, 0.8),
  "=": () => zoom(plot, 0.8),
  "-": () => zoom(plot, 1.25),
};

$("canvas").addEventListener("keydown", (event) => {
  if (plot === null || !(event.key in mapKeys) || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  moved = true;
  mapKeys[event.key]();
});

const pageKeys = {
  "/": () => $("search").focus(),
  "?": () => $("help").showModal(),
  l: toggleLasso,
  v: () => plot && inView(),
  0: () => plot && reset(),
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (event.key === "Escape") {
    mode("panZoom");
    clear();
  } else if (!event.target.matches("input, audio") && event.key in pageKeys) {
    event.preventDefault();
    pageKeys[event.key]();
  }
});

let typing;
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(update, data.count > 20_000 ? 150 : 0);
});
$("search").addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" || event.key === "Enter") {
    event.preventDefault();
    $("list").focus();
  }
});
$("clear").addEventListener("click", clear);
$("download").addEventListener("click", download);
$("lasso").addEventListener("click", toggleLasso);
$("view").addEventListener("click", inView);
$("reset").addEventListener("click", reset);
$("keys").addEventListener("click", () => $("help").showModal());
$("theme").addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  theme();
});
darkSystem.addEventListener("change", theme);

$("title").textContent = data.shown(data.title);
$("made").textContent = `${data.counted(data.count, "clip")} · ${data.made}`;
$("by").textContent = data.shown(data.by);
theme();
start().finally(() => {
  update();
  document.documentElement.dataset.ready = String(plot !== null);
});
