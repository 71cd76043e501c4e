import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { downloadFile, type RemoteFile, reasonOf } from "../../src/io/hub-download.js";
import { errorOf, tempFolder } from "./files.js";

const bytes = Buffer.from(Uint8Array.from({ length: 5000 }, (_, i) => (i * 31) % 251));
const hash = createHash("sha256").update(bytes).digest("hex");
let server: Server;
/** What the server does with each request in turn; the last goes on for ever. */
let answers: ((response: ServerResponse, from: number) => void)[];
let requests: (string | undefined)[];
let file: RemoteFile;
let target: string;

const status = (code: number) => (response: ServerResponse) => void response.writeHead(code).end();
const fine = (response: ServerResponse, from: number) => void response.writeHead(from > 0 ? 206 : 200).end(bytes.subarray(from));

beforeEach(async () => {
  requests = [];
  server = createServer((request, response) => {
    const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
    const answer = answers[Math.min(requests.push(request.headers.range) - 1, answers.length - 1)]!;
    answer(response, from);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  file = { name: "a", url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/a`, size: bytes.length, hash };
  target = join(tempFolder(), "a");
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

const download = () => downloadFile(file, target, {}, () => {});

it("is tried again where the server is busy, says nothing or stops too early, and goes on where it was", async () => {
  answers = [
    status(503),
    status(429),
    status(204),
    (response) => void response.writeHead(200).end(bytes.subarray(0, 1000)),
    fine,
  ];
  await download();
  expect(readFileSync(target).equals(bytes)).toBe(true);
  expect(requests).toEqual([undefined, undefined, undefined, undefined, "bytes=1000-"]);
});

it("is given up after five tries, and at once where the server refuses", async () => {
  answers = [status(500)];
  expect(await errorOf(download())).toMatchObject({
    code: "HUB",
    message: expect.stringContaining("could not be downloaded"),
    details: { attempts: 5 },
  });
  expect(requests).toHaveLength(5);
  answers = [status(404)];
  requests = [];
  expect(await errorOf(download())).toMatchObject({ code: "HUB", details: { status: 404 } });
  expect(requests).toHaveLength(1);
});

it("asks for nothing where the part is the whole, and stops where there is more than announced", async () => {
  answers = [fine];
  writeFileSync(`${target}.incomplete`, bytes);
  await download();
  expect(requests).toEqual([]);
  expect(existsSync(`${target}.incomplete`)).toBe(false);
  answers = [(response) => void response.writeHead(200).end(Buffer.alloc(100_000))];
  expect((await errorOf(download())).message).toContain("checksum mismatch");
});

it("has a reason for every failure", () => {
  const because = (cause: unknown) => reasonOf(new Error("fetch failed", { cause }));
  expect(because(new Error("refused"))).toBe("fetch failed (refused)");
  expect(because(Object.assign(new Error(""), { code: "ECONNRESET" }))).toBe("fetch failed (ECONNRESET)");
  expect(because("nothing")).toBe("fetch failed");
});
