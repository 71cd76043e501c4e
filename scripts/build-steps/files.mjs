// Content hashes of the inputs, so that a build that is current costs milliseconds.
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";

/** All files below the folder, sorted; names relative to root. */
export function walk(root, folder, keep = () => true) {
  const files = [];
  for (const entry of readdirSync(join(root, folder), { withFileTypes: true })) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) files.push(...walk(root, path, keep));
    else if (keep(path)) files.push(path);
  }
  return files.sort();
}

/** A C++ source and all it includes by `#include "…"`, whatever `#if` stands around: those of both compilers of a kernel. Names relative to root, sorted. */
export function withIncludes(root, source) {
  const found = new Set([source]);
  for (const file of found)
    for (const [, name] of readFileSync(join(root, file), "utf8").matchAll(/^\s*#\s*include\s*"([^"]+)"/gm))
      found.add(normalize(join(dirname(file), name)));
  return [...found].sort();
}

/** One hash over names and contents of the files and some words that matter besides. */
export function hashFiles(root, files, words = []) {
  const hash = createHash("sha256").update(words.join("\n"));
  for (const file of files) {
    const content = readFileSync(join(root, file));
    hash.update(`\n${file} ${content.length}\n`).update(content);
  }
  return hash.digest("hex");
}

export function stampIs(path, hash) {
  return existsSync(path) && readFileSync(path, "utf8") === hash;
}
