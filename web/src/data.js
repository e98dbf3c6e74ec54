// What the page holds: JSON in two elements, numbers in it as base64.

const block = (id) => JSON.parse(document.getElementById(id).textContent);

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

const data = block("data");
const embedded = block("recordings");
const points = new Uint16Array(bytes(data.points));

export const { title, made, count, by, legend, light, dark } = data;
export const x = Float32Array.from({ length: count }, (_, row) => points[2 * row] / 32767.5 - 1);
export const y = Float32Array.from({ length: count }, (_, row) => points[2 * row + 1] / 32767.5 - 1);
export const start = new Float64Array(bytes(data.start));
export const end = new Float64Array(bytes(data.end));
const channel = data.channel && new Int32Array(bytes(data.channel));
export const colour = new Uint8Array(bytes(data.colour));
const file = new Uint32Array(bytes(data.file));
const labels = new Uint32Array(bytes(data.label));
const { files } = data;

export const label = (row) => data.labels[labels[row]];
export const name = (row) => files.name[file[row]];
export const folder = (row) => files.folders[files.folder[file[row]]];
export const path = (row) => folder(row) + name(row);

const lower = files.name.map((text, number) =>
  (files.folders[files.folder[number]] + text).toLowerCase(),
);

// Rows whose path has every word of the text.
export function matching(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = lower.map((path) => words.every((word) => path.includes(word)));
  return (row) => found[file[row]];
}

const urls = new Map();

// Where the recording of a row is, without its times.
export function link(row) {
  const number = file[row];
  if (number in embedded) {
    if (!urls.has(number)) {
      urls.set(number, URL.createObjectURL(new Blob([bytes(embedded[number])])));
    }
    return urls.get(number);
  }
  const last = files.odd?.[number] ?? encodeURIComponent(files.name[number]);
  return files.hrefs[files.folder[number]] + last;
}

// Letters that would hide, reorder or break what is shown, as the number that they are.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;

export const shown = (text) =>
  text.replace(HIDDEN, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);

export const shownLabel = (row) => {
  const text = label(row);
  return text === null ? "no label" : shown(text);
};

function clock(seconds) {
  const tenths = Math.round(seconds * 10);
  const minutes = Math.floor(tenths / 600);
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  if (minutes < 60) return `${minutes}:${rest}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
}

export const times = (row) => {
  const span = `${clock(start[row])} – ${clock(end[row])}`;
  return channel ? `${span} · channel ${channel[row]}` : span;
};

export const counted = (number, noun) =>
  `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

// Rows as CSV; `fusion-engine embed --from-list` takes it.
export function csv(rows) {
  const quoted = (value) => {
    const text = String(value ?? "");
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const columns = [["path", path], ["start", (row) => start[row]], ["end", (row) => end[row]], [by, label]];
  if (channel) columns.splice(1, 0, ["channel", (row) => channel[row]]);
  const lines = [columns.map(([name]) => name), ...rows.map((row) => columns.map(([, value]) => value(row)))];
  return lines.map((line) => `${line.map(quoted).join(",")}\r\n`).join("");
}
