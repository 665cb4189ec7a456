// Bundles entry.js into d3.min.js, with the licences of the modules at its head, and writes LICENSE.
import { build } from "esbuild";
import { readFileSync, writeFileSync } from "node:fs";

const read = (name, file) => readFileSync(`node_modules/${name}/${file}`, "utf8");
const options = { entryPoints: ["entry.js"], bundle: true, minify: true, format: "iife", globalName: "d3", target: "es2020", legalComments: "none", metafile: true };
const inputs = Object.keys((await build({ ...options, write: false })).metafile.inputs);
const names = [...new Set(inputs.map((path) => path.match(/node_modules\/([^/]+)/)?.[1]).filter(Boolean))].sort();

const texts = new Map(); // of a licence: the modules under it
for (const name of names) {
  const text = read(name, "LICENSE").trim();
  texts.set(text, [...(texts.get(text) ?? []), `${name} ${JSON.parse(read(name, "package.json")).version}`]);
}
const licences = [...texts].map(([text, modules]) => `${modules.join(", ")}\n\n${text}\n`).join("\n");
writeFileSync("LICENSE", licences);
await build({ ...options, outfile: "d3.min.js", banner: { js: `/*!\n${licences}*/` } });
