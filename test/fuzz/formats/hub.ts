import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { resolveModel } from "../../../src/io/hub.js";
import { filesOf } from "../files.js";
import type { Format } from "../format.js";
import { CONFIG } from "../tiny.js";

const config = Buffer.from(JSON.stringify(CONFIG));
const sha = "0123456789012345678901234567890123456789";
const weights = Buffer.alloc(100, 7);
const blob = createHash("sha1").update(`blob ${config.length}\0`).update(config).digest("hex");
const lfs = { sha256: createHash("sha256").update(weights).digest("hex"), size: weights.length };
const listing = {
  id: "org/name",
  sha,
  siblings: [
    { rfilename: "config.json", size: config.length, blobId: blob },
    { rfilename: "model.safetensors", size: 100, blobId: blob, lfs },
    { rfilename: "README.md", size: 3, blobId: blob },
  ],
};

let answer: Buffer = Buffer.alloc(0);
const server = createServer((request, response) => {
  if (request.url?.startsWith("/api/")) response.end(answer);
  else if (request.url?.endsWith("/config.json")) response.end(config);
  else if (request.url?.endsWith("/model.safetensors")) response.end(weights);
  else {
    response.statusCode = 404;
    response.end();
  }
});
await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
server.unref();
process.env.HF_ENDPOINT = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
process.env.HF_HUB_OFFLINE = "0";

export const format: Format = {
  name: "hub",
  seeds: [
    filesOf({
      "listing.json": listing,
      "models--org--name/refs/main": sha,
      [`models--org--name/snapshots/${sha}/config.json`]: config,
    }),
  ],
  targets: ["listing.json", "listing.json", "models--org--name/refs/main"],
  async open(folder) {
    answer = readFileSync(join(folder, "listing.json"));
    await resolveModel("org/name", { cacheDir: folder });
  },
};
