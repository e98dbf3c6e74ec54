// Bundles src/ into the package. `node build.mjs --record` first writes src/regl-code.js anew: it needs
// Chromium, by $CHROMIUM or the PATH, and is due when a version in package.json changes.
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { build } from "esbuild";

const ASSETS = "../python/fusion_engine/map/assets";

process.chdir(import.meta.dirname);

const bundle = async (entry) => {
  const result = await build({
    entryPoints: [entry],
    // regl as Plotly keeps it: it takes functions that were written before.
    alias: { regl: "@plotly/regl" },
    bundle: true,
    minify: true,
    format: "iife",
    target: ["chrome111", "firefox113", "safari16.4"],
    // Inside a script element.
    supported: { "inline-script": false },
    legalComments: "none",
    charset: "ascii",
    write: false,
  });
  return result.outputFiles[0].text;
};

// The page is served and its answer awaited: headless Chromium's own ways to wait count no frames.
async function record() {
  const text = await bundle("src/record.js");
  const page = `<canvas id=canvas width=300 height=300></canvas><script>${text}</script>`;
  let browser;
  const profile = mkdtempSync(join(tmpdir(), "map-record-"));
  const answer = await new Promise((resolve, reject) => {
    const server = createServer(async (request, response) => {
      response.setHeader("content-type", "text/html").end(request.method === "POST" ? "" : page);
      if (request.method !== "POST") return;
      const parts = [];
      for await (const part of request) parts.push(part);
      server.close();
      resolve(Buffer.concat(parts).toString());
    });
    server.listen(0, "127.0.0.1", () => {
      const url = `http://127.0.0.1:${server.address().port}/`;
      const flags = ["--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"];
      browser = spawn(process.env.CHROMIUM ?? "chromium", [...flags, `--user-data-dir=${profile}`, url], { detached: true, stdio: "ignore" });
      browser.on("error", reject);
    });
  });
  browser.on("exit", () => rmSync(profile, { recursive: true, force: true }));
  process.kill(-browser.pid);
  if (!answer.startsWith("[")) throw new Error(answer);
  const tables = new Map();
  const entries = JSON.parse(answer).map(([key, made, called]) => `  "${key}": ${shared(only(made, called), tables)},`);
  const head = "// What regl writes for the map, by its digest: `npm run record` makes it, build.mjs says how.\n";
  const constants = [...tables].map(([table, name]) => `const ${name} = ${table};\n`).join("");
  writeFileSync("src/regl-code.js", `${head}${constants}export default {\n${entries.sort().join("\n")}\n};\n`);
}

// Tables of constants, which nothing changes, once for all functions.
const shared = (made, tables) =>
  made.replace(/\{\n("[^\n]*)\}\n/g, (table) => {
    if (!tables.has(table)) tables.set(table, `table${tables.size}`);
    return `${tables.get(table)}\n`;
  });

// Without the commands that nothing here calls, which are most of the text: they come last.
function only(made, called) {
  const [first, ...commands] = made.replace("function anonymous", "function").split(/,?(?="(?:draw|scope|batch)":function)/);
  const kept = commands.filter((command) => called.some((name) => command.startsWith(`"${name}"`)));
  if (!commands.length) return first;
  return `${first}${kept.map((text) => text.replace(/\n?\}\n;?\s*\}$/, "\n")).join(",")}}\n}`;
}

// All that is installed for the page, since regl-scatterplot comes with most of it inside; regl's
// place is taken, and KDBush is a part of regl-scatterplot's own sources.
function licences() {
  const { packages } = JSON.parse(readFileSync("package-lock.json", "utf8"));
  const used = Object.keys(packages).filter((path) => path && (!packages[path].dev || path.endsWith("/kdbush")));
  return used.sort().filter((path) => path !== "node_modules/regl").map((path) => {
    const name = path.replace(/.*node_modules\//, "");
    const folder = join("node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    return `${name} ${version} (${license})\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
  });
}

// Of all that the bundle is made of: a test compares it with the sources.
function digest() {
  const hash = createHash("sha256");
  const sources = readdirSync("src").sort().map((file) => join("src", file));
  for (const file of [...sources, "build.mjs", "package-lock.json"]) hash.update(readFileSync(file));
  return hash.digest("hex");
}

if (process.argv.includes("--record")) await record();
const text = await bundle("src/main.js");
const css = await build({ entryPoints: ["src/style.css"], minify: true, write: false });
writeFileSync(join(ASSETS, "map.js"), `// Made by web/build.mjs of sources ${digest()}\n${text}`);
writeFileSync(join(ASSETS, "map.css"), css.outputFiles[0].text);
writeFileSync(join(ASSETS, "map.html"), readFileSync("src/page.html"));
writeFileSync(join(ASSETS, "licences.txt"), licences().join(`\n${"-".repeat(72)}\n\n`));
console.log(`map.js ${(text.length / 1000).toFixed(0)} kB`);
