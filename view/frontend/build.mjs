// Build the page into ../page: node build.mjs. Packages in it must have one of these licences, and
// all files together must be smaller than LARGEST when a server compresses them.

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const HERE = import.meta.dirname;
const OUT = join(HERE, "..", "page");
const LICENCES = new Set(["MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause", "Apache-2.0", "0BSD"]);
const LARGEST = 300_000; // bytes

/** The sha256 of all sources, each with its name: tests compare it with that of the built page. */
function sourcesDigest() {
  const names = [
    ...readdirSync(HERE),
    ...readdirSync(join(HERE, "src")).map((name) => `src/${name}`),
  ].filter((name) => /\.(tsx?|css|html|mjs|json)$/.test(name));
  const hash = createHash("sha256");
  for (const name of names.sort()) {
    const content = readFileSync(join(HERE, name));
    hash.update(`${name}\n${content.length}\n`).update(content);
  }
  return hash.digest("hex");
}

/** The licence texts of the packages that a bundle contains. */
function licences(inputs) {
  const found = Object.keys(inputs).map(
    (path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1],
  );
  return [...new Set(found.filter(Boolean))].sort().map((name) => {
    const folder = join(HERE, "node_modules", name);
    const { license, version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    if (!LICENCES.has(license))
      throw new Error(`${name} has the licence ${license}, which is not in ${[...LICENCES]}`);
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    if (!file) throw new Error(`${name} has no file with its licence`);
    return `${name} ${version}, ${license}\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
  });
}

rmSync(OUT, { recursive: true, force: true });
mkdirSync(OUT, { recursive: true });
const { metafile, warnings } = await build({
  absWorkingDir: HERE,
  entryPoints: { app: "src/main.tsx" },
  outdir: OUT,
  entryNames: "[name]",
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2022", "chrome105", "firefox110", "safari16"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  metafile: true,
});
if (warnings.length > 0) throw new Error("The sources have warnings");
writeFileSync(join(OUT, "index.html"), readFileSync(join(HERE, "index.html")));
writeFileSync(join(OUT, "licences.txt"), licences(metafile.inputs).join(`\n${"-".repeat(70)}\n\n`));
writeFileSync(join(OUT, "sources.sha256"), `${sourcesDigest()}\n`);

let total = 0;
for (const name of readdirSync(OUT).sort()) {
  const size = gzipSync(readFileSync(join(OUT, name))).length;
  total += size;
  console.log(`${name.padEnd(16)} ${size} bytes gzipped`);
}
console.log(`${"all".padEnd(16)} ${total} bytes gzipped, of at most ${LARGEST}`);
if (total >= LARGEST) throw new Error("The page is too large");
