/** `npm run readme`: writes README's table anew. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { features, ROOT, render, withTable } from "./features.js";

const path = join(ROOT, "README.md");
writeFileSync(path, withTable(readFileSync(path, "utf8"), render(features())));
