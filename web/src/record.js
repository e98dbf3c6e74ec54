// Does once what the page can do, and sends back the functions that regl wrote for it.
import { applyTheme, createPlot, wholeView } from "./plot.js";

const canvas = document.getElementById("canvas");
const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const mouse = (type, x, y, buttons, extra = {}) => {
  const target = type === "mousedown" || type === "click" ? canvas : window;
  const box = canvas.getBoundingClientRect();
  const at = { clientX: box.left + x, clientY: box.top + y };
  target.dispatchEvent(new MouseEvent(type, { bubbles: true, button: 0, buttons, ...at, ...extra }));
};

async function useAll(code) {
  const { plot } = createPlot(canvas, code);
  plot.set({ pointSize: 8, opacity: 0.5 });
  const style = { getPropertyValue: () => "#336699" };
  applyTheme(plot, ["#336699", "#993366", "#669933"], style);
  const points = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));
  await plot.draw(
    { x: points, y: points.toReversed(), valueA: points.map((_, i) => i % 3) },
    { zDataType: "categorical" },
  );
  await wholeView(plot, true);
  plot.hover(3);
  await wait(100);
  plot.select([1, 2, 3, 4]);
  await wait(100);
  plot.filter([1, 2, 5, 6]);
  await wait(100);
  plot.unfilter();
  plot.deselect();
  plot.set({ mouseMode: "lasso" });
  canvas.dispatchEvent(new MouseEvent("mouseenter"));
  mouse("mousedown", 20, 20, 1);
  for (const [x, y] of [[90, 20], [200, 30], [250, 200], [40, 250], [20, 90]]) {
    mouse("mousemove", x, y, 1);
    await wait(60);
  }
  mouse("mouseup", 20, 90, 0);
  await wait(200);
}

// The text of each function, and what of the commands that it gives was called the second time.
async function record() {
  const code = {};
  await useAll(code);
  const called = {};
  const watched = Object.entries(code).map(([key, make]) => {
    called[key] = new Set();
    const watch = ([name, member]) => {
      if (typeof member !== "function") return [name, member];
      return [name, function (...given) {
        called[key].add(name);
        return member.apply(this, given);
      }];
    };
    return [key, (...links) => Object.fromEntries(Object.entries(make(...links)).map(watch))];
  });
  await useAll(Object.fromEntries(watched));
  return JSON.stringify(Object.entries(code).map(([key, make]) => [key, String(make), [...called[key]]]));
}

record()
  .catch((error) => `failed: ${error.stack}`)
  .then((body) => fetch("/", { method: "POST", body }));
