import { createHash } from "node:crypto";
import { lstatSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { homedir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type ResolveOptions, resolveModel } from "../../src/io/hub.js";
import { HubCache, hubCacheFolder, hubHome } from "../../src/io/hub-cache.js";
import { thisProcess } from "../../src/io/process-identity.js";
import { errorOf, tempFolder } from "./files.js";

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const weights = Buffer.from(Uint8Array.from({ length: 300_000 }, (_, i) => (i * 31) % 251));
const config = Buffer.from('{"model_type":"llama"}');
const sha256 = createHash("sha256").update(weights).digest("hex");
const gitSha1 = createHash("sha1").update(`blob ${config.length}\0`).update(config).digest("hex");

type Behaviour = (request: IncomingMessage, response: ServerResponse, file: string) => boolean;
let server: Server;
let behave: Behaviour;
let requests: { url: string; range: string | undefined; authorization: string | undefined }[];
let siblings: unknown[];
let options: ResolveOptions & { cacheDir: string };
const environment = { ...process.env };

beforeEach(async () => {
  behave = () => false;
  requests = [];
  siblings = [
    { rfilename: "config.json", size: config.length, blobId: gitSha1 },
    { rfilename: "model.safetensors", size: weights.length, blobId: "f".repeat(40), lfs: { sha256, size: weights.length } },
    { rfilename: "pytorch_model.bin", size: 5, blobId: "e".repeat(40) },
    { rfilename: "original/consolidated.safetensors", size: 5, blobId: "d".repeat(40) },
    { rfilename: "../evil.json", size: 5, blobId: "c".repeat(40) },
  ];
  server = createServer((request, response) => {
    const url = request.url ?? "";
    requests.push({ url, range: request.headers.range, authorization: request.headers.authorization });
    const file = url.split("/").pop() ?? "";
    if (behave(request, response, file)) return;
    if (url.startsWith("/api/models/org/name/revision/main")) return response.end(JSON.stringify({ sha: COMMIT, siblings }));
    const bytes = file === "config.json" ? config : file === "model.safetensors" ? weights : undefined;
    if (bytes === undefined || !url.startsWith(`/org/name/resolve/${COMMIT}/`)) return response.writeHead(404).end();
    const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
    response.writeHead(from > 0 ? 206 : 200, { "content-length": bytes.length - from }).end(bytes.subarray(from));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  for (const name of ["HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"]) delete process.env[name];
  process.env.HF_HOME = tempFolder();
  process.env.HF_ENDPOINT = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  options = { cacheDir: tempFolder() };
});

afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  process.env = { ...environment };
});

const repository = () => join(options.cacheDir, "models--org--name");
const status = (code: number, headers: Record<string, string> = {}): Behaviour => {
  return (_, response) => {
    response.writeHead(code, headers).end();
    return true;
  };
};

describe("resolveModel", () => {
  it("gives a folder as it is and refuses what is neither folder nor id", async () => {
    const folder = tempFolder();
    expect(await resolveModel(folder)).toBe(folder);
    for (const name of ["./missing", "/missing/model", "a/b/c", "org/../x"])
      expect((await errorOf(resolveModel(name, options))).code).toBe("NOT_FOUND");
    expect(requests).toEqual([]);
  });

  it("downloads what a model needs into the layout of Python's cache, and asks for no file twice", async () => {
    const progress: number[] = [];
    const folder = await resolveModel("org/name", { ...options, token: "secret", onProgress: ({ done }) => progress.push(done) });
    expect(folder).toBe(join(repository(), "snapshots", COMMIT));
    expect(readdirSync(folder).sort()).toEqual(["config.json", "model.safetensors"]);
    expect(readlinkSync(join(folder, "model.safetensors"))).toBe(`../../blobs/${sha256}`);
    expect(readlinkSync(join(folder, "config.json"))).toBe(`../../blobs/${gitSha1}`);
    expect(readFileSync(join(folder, "model.safetensors")).equals(weights)).toBe(true);
    expect(readFileSync(join(repository(), "refs", "main"), "utf8")).toBe(COMMIT);
    expect(progress.at(-1)).toBe(weights.length + config.length);
    expect(requests.every(({ authorization }) => authorization === "Bearer secret")).toBe(true);
    requests = [];
    await resolveModel("org/name", options);
    expect(requests.map(({ url }) => url)).toEqual(["/api/models/org/name/revision/main?blobs=true"]);
  });

  it("downloads files of one content once, and each has it under its name", async () => {
    const names = ["a.json", "b.json", "c.json"];
    siblings.push(...names.map((rfilename) => ({ rfilename, size: config.length, blobId: gitSha1 })));
    behave = (_, response, file) => {
      if (names.includes(file)) response.end(config);
      return names.includes(file);
    };
    const folder = await resolveModel("org/name", options);
    for (const name of ["config.json", ...names]) expect(readFileSync(join(folder, name))).toEqual(config);
    expect(requests.filter(({ url }) => url.endsWith(".json"))).toHaveLength(1);
  });

  it("waits while somebody else downloads the same model, and then asks for no file again", async () => {
    const folders = await Promise.all([resolveModel("org/name", options), resolveModel("org/name", options)]);
    for (const folder of folders) expect(readFileSync(join(folder, "model.safetensors"))).toEqual(weights);
    expect(requests.filter(({ url }) => url.endsWith(".safetensors"))).toHaveLength(1);
    expect(readdirSync(repository()).sort()).toEqual(["blobs", "refs", "snapshots"]);
  });

  it("stops waiting at an abort, and does not wait for another machine, whose processes cannot be seen", async () => {
    mkdirSync(repository(), { recursive: true });
    const lock = join(repository(), ".lowrank.lock");
    writeFileSync(lock, JSON.stringify(thisProcess()));
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error("enough")), 300);
    await expect(resolveModel("org/name", { ...options, signal: controller.signal })).rejects.toThrow("enough");
    writeFileSync(lock, JSON.stringify({ ...thisProcess(), host: "elsewhere" }));
    expect(await errorOf(resolveModel("org/name", options))).toMatchObject({
      code: "LOCKED",
      message: expect.stringContaining("on elsewhere"),
    });
    expect(requests.every(({ url }) => url.startsWith("/api/"))).toBe(true);
  });

  it("continues where a dropped connection stopped", async () => {
    let drops = 2;
    behave = (request, response, file) => {
      if (file !== "model.safetensors" || drops-- <= 0) return false;
      const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0);
      response.writeHead(from > 0 ? 206 : 200, { "content-length": weights.length - from });
      response.write(weights.subarray(from, from + 100_000), () => response.destroy());
      return true;
    };
    const folder = await resolveModel("org/name", options);
    expect(readFileSync(join(folder, "model.safetensors")).equals(weights)).toBe(true);
    const ranges = requests.filter(({ url }) => url.endsWith(".safetensors")).map(({ range }) => range);
    expect(ranges).toHaveLength(3);
    expect(ranges[1]).toMatch(/^bytes=[1-9]\d*-$/);
  });

  it("continues a former process's part, and begins anew when that part was wrong or the server cannot continue", async () => {
    const partial = join(repository(), "blobs", `${sha256}.incomplete`);
    const parts: [string, Buffer, Behaviour][] = [
      ["right", weights.subarray(0, 1000), () => false],
      ["wrong bytes", Buffer.alloc(1000), () => false],
      ["too long", Buffer.alloc(weights.length + 1), () => false],
      [
        "416",
        weights.subarray(0, 1000),
        (request, response, file) =>
          file === "model.safetensors" && request.headers.range !== undefined && status(416)(request, response, file),
      ],
      [
        "200",
        weights.subarray(0, 1000),
        (_, response, file) => {
          if (file !== "model.safetensors") return false;
          response.writeHead(200).end(weights);
          return true;
        },
      ],
    ];
    for (const [name, part, behaviour] of parts) {
      rmSync(repository(), { recursive: true, force: true });
      mkdirSync(join(repository(), "blobs"), { recursive: true });
      writeFileSync(partial, part);
      behave = behaviour;
      const folder = await resolveModel("org/name", options);
      expect(readFileSync(join(folder, "model.safetensors")).equals(weights), name).toBe(true);
      expect(readdirSync(join(repository(), "blobs")).sort()).toEqual([sha256, gitSha1].sort());
    }
  });

  it("refuses wrong bytes and keeps none of them", async () => {
    behave = (_, response, file) => {
      if (file !== "model.safetensors") return false;
      response.end(Buffer.alloc(weights.length));
      return true;
    };
    const error = await errorOf(resolveModel("org/name", options));
    expect(error.code).toBe("HUB");
    expect(error.message).toMatch(/checksum mismatch: model.safetensors/);
    expect(readdirSync(join(repository(), "blobs"))).not.toContain(sha256);
    expect(readdirSync(repository())).not.toContain("refs");
  });

  it("has a sentence for gated and absent models, absent revisions and a full disk", async () => {
    for (const code of [401, 403]) {
      behave = status(code);
      const error = await errorOf(resolveModel("org/name", options));
      expect(error.code).toBe("HUB");
      expect(error.message).toBe(
        `org/name is gated: accept its licence at ${process.env.HF_ENDPOINT}/org/name, then set HF_TOKEN`,
      );
    }
    behave = (request, response, file) => file === "config.json" && status(403)(request, response, file);
    expect((await errorOf(resolveModel("org/name", options))).message).toMatch(/^org\/name is gated/);
    behave = status(404);
    expect((await errorOf(resolveModel("org/name", options))).message).toMatch(/org\/name is not on the Hub/);
    behave = status(404, { "x-error-code": "RevisionNotFound" });
    expect((await errorOf(resolveModel("org/name", { ...options, revision: "v9" }))).message).toMatch(/no revision 'v9'/);
    behave = () => false;
    requests = [];
    siblings.push({ rfilename: "model-2.safetensors", size: 2 ** 50, blobId: "a".repeat(40) });
    const error = await errorOf(resolveModel("org/name", options));
    expect(error.code).toBe("NO_SPACE");
    expect(error.message).toMatch(/1024.0 TiB are needed, .* free/);
    expect(requests.some(({ url }) => url.endsWith(".safetensors"))).toBe(false);
  });

  it("refuses a model that has pickles only, and a listing without hashes", async () => {
    siblings = [
      { rfilename: "config.json", size: 1, blobId: gitSha1 },
      { rfilename: "pytorch_model.bin", size: 5, blobId: "e".repeat(40) },
    ];
    expect((await errorOf(resolveModel("org/name", options))).code).toBe("UNSUPPORTED");
    siblings = [{ rfilename: "model.safetensors", size: 1, blobId: "../../x" }];
    expect((await errorOf(resolveModel("org/name", options))).message).toMatch(/no size or hash for model.safetensors/);
  });

  it("works offline from a complete cache, and says so when it is not", async () => {
    const error = await errorOf(resolveModel("org/name", { ...options, offline: true }));
    expect(error.code).toBe("HUB");
    expect(error.message).toMatch(/not in the cache .*offline/);
    const folder = await resolveModel("org/name", options);
    requests = [];
    process.env.HF_HUB_OFFLINE = "1";
    expect(await resolveModel("org/name", options)).toBe(folder);
    delete process.env.HF_HUB_OFFLINE;
    expect(await resolveModel("org/name", { ...options, revision: COMMIT })).toBe(folder);
    expect(requests).toEqual([]);
    process.env.HF_ENDPOINT = "http://127.0.0.1:9"; // nothing listens there
    expect(await resolveModel("org/name", options)).toBe(folder);
    expect((await errorOf(resolveModel("org/other", options))).message).toMatch(/cannot be reached/);
    rmSync(join(repository(), "blobs", sha256));
    expect(lstatSync(join(folder, "model.safetensors")).isSymbolicLink()).toBe(true);
    expect((await errorOf(resolveModel("org/name", { ...options, offline: true }))).code).toBe("HUB");
  });

  it("stops at an abort with the signal's reason and keeps the part", async () => {
    const controller = new AbortController();
    behave = (_, response, file) => {
      if (file !== "model.safetensors") return false;
      response.writeHead(200, { "content-length": weights.length });
      response.write(weights.subarray(0, 1000));
      setTimeout(() => controller.abort(new Error("enough")), 100);
      return true;
    };
    await expect(resolveModel("org/name", { ...options, signal: controller.signal })).rejects.toThrow("enough");
    expect(readFileSync(join(repository(), "blobs", `${sha256}.incomplete`))).toHaveLength(1000);
  });

  it("refuses a file in place of a folder, and what cannot be a revision", async () => {
    const file = join(tempFolder(), "config.json");
    writeFileSync(file, "{}");
    expect(await errorOf(resolveModel(file))).toMatchObject({
      code: "NOT_FOUND",
      message: expect.stringContaining("is a file, not the folder"),
    });
    for (const revision of ["../main", "a b", ""])
      expect((await errorOf(resolveModel("org/name", { ...options, revision }))).code, revision).toBe("INVALID_ARGUMENT");
    expect(requests).toEqual([]);
  });

  it("takes what is in the cache where the Hub is down, and says what it answered where nothing is", async () => {
    behave = status(503);
    expect(await errorOf(resolveModel("org/name", options))).toMatchObject({ code: "HUB", details: { status: 503 } });
    behave = () => false;
    const folder = await resolveModel("org/name", options);
    behave = status(503);
    expect(await resolveModel("org/name", options)).toBe(folder);
  });

  it("refuses a listing that is none", async () => {
    for (const body of ["{", "[]", '{"sha":5,"siblings":[]}', '{"sha":"main","siblings":[]}', `{"sha":"${COMMIT}"}`]) {
      behave = (_, response) => {
        response.end(body);
        return true;
      };
      expect((await errorOf(resolveModel("org/name", options))).message, body).toContain("cannot be understood");
    }
    behave = (_, response) => {
      response.end(Buffer.alloc(9 * 2 ** 20, " "));
      return true;
    };
    expect((await errorOf(resolveModel("org/name", options))).message).toContain("cannot be understood");
  });

  it("refuses a listing that names a file twice or too many, and takes the most it may name", async () => {
    behave = (_, response, file) => {
      if (file.startsWith("x")) response.end(config);
      return file.startsWith("x");
    };
    const many = (count: number) =>
      Array.from({ length: count }, (_, i) => ({ rfilename: `x${i}.json`, size: config.length, blobId: gitSha1 }));
    const given = siblings;
    siblings = [...given, ...many(1999)];
    expect((await errorOf(resolveModel("org/name", options))).message).toContain("2001 files to read, more than 2000");
    siblings = [...given, ...many(2), ...many(1)];
    expect((await errorOf(resolveModel("org/name", options))).message).toContain("names a file twice");
    siblings = [...given, ...many(1998)];
    expect(readdirSync(await resolveModel("org/name", options))).toHaveLength(2000);
  });

  it("sends the token that is stored, and looks where Python's library looks", async () => {
    writeFileSync(join(process.env.HF_HOME!, "token"), "stored\n");
    const { cacheDir: _, ...here } = options;
    expect(await resolveModel("org/name", here)).toBe(
      join(process.env.HF_HOME!, "hub", "models--org--name", "snapshots", COMMIT),
    );
    expect(requests[0]!.authorization).toBe("Bearer stored");
    process.env.HUGGINGFACE_HUB_CACHE = "/old";
    expect(hubCacheFolder()).toBe("/old");
    process.env.HF_HUB_CACHE = "/new";
    expect(hubCacheFolder()).toBe("/new");
    delete process.env.HF_HOME;
    process.env.XDG_CACHE_HOME = "/xdg";
    expect(hubHome()).toBe("/xdg/huggingface");
    delete process.env.XDG_CACHE_HOME;
    expect(hubHome()).toBe(join(homedir(), ".cache", "huggingface"));
  });

  it("takes a snapshot for complete when nothing of it is missing", async () => {
    const cache = new HubCache(options.cacheDir, "org/name");
    const snapshot = cache.snapshot(COMMIT);
    mkdirSync(snapshot, { recursive: true });
    const add = (name: string, content: unknown = {}) => writeFileSync(join(snapshot, name), JSON.stringify(content));
    const complete = async (yes: boolean) => expect(await cache.complete(COMMIT)).toBe(yes ? snapshot : undefined);
    await complete(false);
    add("config.json");
    await complete(false);
    add("model.safetensors.index.json", { weight_map: { a: "1.safetensors", b: 5 } });
    add("1.safetensors");
    await complete(false);
    add("model.safetensors.index.json", { weight_map: { a: "1.safetensors", b: "2.safetensors" } });
    await complete(false);
    add("2.safetensors");
    await complete(true);
    add("model.safetensors.index.json");
    await complete(true);
    rmSync(join(snapshot, "config.json"));
    add("adapter_config.json");
    await complete(false);
    add("adapter_model.safetensors");
    await complete(true);
    writeFileSync(join(repository(), "bad"), "no commit");
    mkdirSync(join(repository(), "refs"));
    writeFileSync(join(repository(), "refs", "main"), "no commit");
    expect(await cache.complete("main")).toBeUndefined();
  });

  it("links a blob that another process has linked, and names what else is in the way", async () => {
    const cache = new HubCache(options.cacheDir, "org/name");
    mkdirSync(join(repository(), "blobs"), { recursive: true });
    writeFileSync(cache.blob(gitSha1), config);
    await cache.link(COMMIT, "config.json", gitSha1);
    await cache.link(COMMIT, "config.json", gitSha1);
    expect(readFileSync(join(cache.snapshot(COMMIT), "config.json"))).toEqual(config);
    await cache.setRef(COMMIT, COMMIT); // a commit is no name
    expect(readdirSync(repository())).not.toContain("refs");
    // A folder cannot be replaced by a link; its own files stay.
    mkdirSync(join(cache.snapshot(COMMIT), "x.json"));
    await cache.link(COMMIT, "x.json", gitSha1);
    expect(lstatSync(join(cache.snapshot(COMMIT), "x.json")).isDirectory()).toBe(true);
  });
});
