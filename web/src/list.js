// A list of very many rows, of which only those in sight are elements.

const HEIGHT = 44;
const BEYOND = 6;

// `fill(element, row)` writes a row; `act(row)` is what Enter and a click do; `see(row)` is called
// with the row that the cursor is on.
export function createList(box, { fill, act, see }) {
  const inner = box.firstElementChild;
  const elements = new Map();
  let rows = [];
  let cursor = -1;

  function draw() {
    const first = Math.max(0, Math.floor(box.scrollTop / HEIGHT) - BEYOND);
    const last = Math.min(rows.length, Math.ceil((box.scrollTop + box.clientHeight) / HEIGHT) + BEYOND);
    for (const [place, element] of elements) {
      if (place < first || place >= last) {
        element.remove();
        elements.delete(place);
      }
    }
    for (let place = first; place < last; place++) {
      if (!elements.has(place)) elements.set(place, create(place));
    }
    for (const [place, element] of elements) {
      element.setAttribute("aria-selected", String(place === cursor));
    }
    if (elements.has(cursor)) box.setAttribute("aria-activedescendant", `row-${cursor}`);
    else box.removeAttribute("aria-activedescendant");
  }

  function create(place) {
    const element = document.createElement("div");
    element.id = `row-${place}`;
    element.className = "row";
    element.setAttribute("role", "option");
    element.setAttribute("aria-setsize", rows.length);
    element.setAttribute("aria-posinset", place + 1);
    element.style.top = `${place * HEIGHT}px`;
    element.dataset.place = place;
    fill(element, rows[place]);
    inner.append(element);
    return element;
  }

  function refresh() {
    for (const element of elements.values()) element.remove();
    elements.clear();
    draw();
  }

  function move(place) {
    if (!rows.length) return;
    cursor = Math.max(0, Math.min(rows.length - 1, place));
    const top = cursor * HEIGHT;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + HEIGHT > box.scrollTop + box.clientHeight) {
      box.scrollTop = top + HEIGHT - box.clientHeight;
    }
    draw();
    see(rows[cursor]);
  }

  const page = () => Math.max(1, Math.floor(box.clientHeight / HEIGHT) - 1);
  const keys = {
    ArrowDown: () => move(cursor + 1),
    ArrowUp: () => move(cursor - 1),
    PageDown: () => move(cursor + page()),
    PageUp: () => move(cursor - page()),
    Home: () => move(0),
    End: () => move(rows.length - 1),
    Enter: () => cursor >= 0 && act(rows[cursor]),
    " ": () => cursor >= 0 && act(rows[cursor]),
  };
  box.addEventListener("keydown", (event) => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  box.addEventListener("focus", () => {
    if (cursor < 0 && box.matches(":focus-visible")) move(0);
  });
  box.addEventListener("scroll", draw);
  const placeOf = (event) => event.target.closest(".row")?.dataset.place;
  box.addEventListener("click", (event) => {
    const place = placeOf(event);
    if (place === undefined) return;
    move(Number(place));
    act(rows[cursor]);
  });
  box.addEventListener("mouseover", (event) => {
    const place = placeOf(event);
    if (place !== undefined) see(rows[place]);
  });
  box.addEventListener("mouseleave", () => see(null));
  new ResizeObserver(draw).observe(box);

  return {
    refresh,
    show(newRows) {
      rows = newRows;
      cursor = -1;
      inner.style.height = `${rows.length * HEIGHT}px`;
      box.scrollTop = 0;
      refresh();
    },
    // Rows are in ascending order.
    reveal(row) {
      let [low, high] = [0, rows.length];
      while (low < high) {
        const middle = (low + high) >> 1;
        if (rows[middle] < row) low = middle + 1;
        else high = middle;
      }
      if (rows[low] === row) move(low);
    },
  };
}
