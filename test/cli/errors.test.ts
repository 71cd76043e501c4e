import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { beforeAll, describe, expect, it, type TestContext } from "vitest";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { tempFolder } from "../io/files.js";
import { tinyPeft } from "../train/tiny.js";
import { buildOnce, lowrank, makeJob, makeModel, type Outcome, type RunOptions } from "./run.js";

beforeAll(buildOnce, 120_000);

/** Fails with this code, one sentence and no stack. */
async function fails(args: readonly string[], code: number, sentence: RegExp, options?: RunOptions): Promise<Outcome> {
  const outcome = await lowrank(args, options);
  expect(outcome.stderr).toMatch(sentence);
  expect(outcome.stderr).not.toMatch(/\n\s+at /);
  expect({ code: outcome.code, stdout: outcome.stdout }).toEqual({ code, stdout: "" });
  return outcome;
}

/** Runs a command by a shell script in a mount namespace of its own: $0 is `mount`, "$@" the command. */
function inNamespace(context: TestContext, mount: string, script: string): string[] {
  mkdirSync(mount);
  const wrapper = ["unshare", "-rm", "sh", "-c", script, mount];
  if (spawnSync(wrapper[0]!, [...wrapper.slice(1), "true"]).status !== 0) context.skip("needs user namespaces");
  return wrapper;
}

/** Runs `body` beside a Hub that answers so. */
async function withHub(answer: RequestListener, body: (env: Record<string, string>) => Promise<void>): Promise<void> {
  const server = createServer(answer);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  try {
    await body({ HF_HUB_OFFLINE: "0", HF_HOME: tempFolder(), HF_ENDPOINT: endpoint });
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

describe("usage", () => {
  it("unknown flags, commands and values, and missing arguments are exit 2", async () => {
    await fails(["train", "x.yaml", "--dryrun"], 2, /unknown option '--dryrun'[\s\S]*--dry-run/);
    await fails(["trian"], 2, /unknown command 'trian'[\s\S]*train/);
    await fails(["merge", "--model", "x"], 2, /--out/);
    await fails(["bench", "step", "--model", "x", "--seq", "many"], 2, /expected an integer/);
    await fails(["generate", "--prompt", "x"], 2, /--model is missing/);
    expect(await lowrank(["--help"])).toMatchObject({ code: 0, stdout: expect.stringContaining("train") });
  });

  it("the configuration: a missing file, and all wrong keys at once", async () => {
    await fails(["train", join(tempFolder(), "none.yaml")], 2, /none\.yaml cannot be read: ENOENT/);
    const { config, out } = await makeJob(tempFolder(), "lora_rnak: 8\nuse_galore: true\nsave_steps: often\n");
    const { stderr } = await fails(["train", config], 2, /3 mistakes/);
    expect(stderr).toMatch(/lora_rnak.*lora_rank/);
    expect(stderr).toMatch(/use_galore/);
    expect(stderr).toMatch(/save_steps/);
    expect(() => readdirSync(out)).toThrow(/ENOENT/);
  });

  it("an output_dir with files, resuming nothing, and a model without a template", async () => {
    const folder = tempFolder();
    const { config, out, model } = await makeJob(folder);
    await fails(["train", config, "--resume"], 2, /no checkpoint that verifies/);
    mkdirSync(out, { recursive: true });
    writeFileSync(join(out, "mine.txt"), "mine");
    await fails(["train", config], 2, /not empty[\s\S]*--resume/);
    expect(readFileSync(join(out, "mine.txt"), "utf8")).toBe("mine");
    await makeModel(model, { template: null });
    await fails(
      ["train", config, `output_dir=${join(folder, "new")}`],
      2,
      /this model has no chat template: set template: chatml \| llama3/,
    );
    await fails(["train", config, `output_dir=${join(folder, "new")}`, "template=lama3"], 2, /template: lama3 is not known/);
  });
});

describe("files", () => {
  it("a missing model, data set, truncated weights and an adapter for another base", async () => {
    const folder = tempFolder();
    const { config, model } = await makeJob(folder);
    await fails(["chat", "--model", join(folder, "absent")], 1, /neither a folder nor a Hub id/);
    await fails(["train", config, "dataset=absent.json"], 1, /absent\.json/);

    await using peft = await tinyPeft();
    const adapter = join(folder, "adapter");
    await peft.savePretrained(adapter);
    const other = join(folder, "other");
    const json = JSON.parse(readFileSync(join(model, "config.json"), "utf8"));
    await using narrow = AutoModelForCausalLM.fromConfig({ ...json, intermediate_size: 128 });
    await narrow.savePretrained(other);
    await fails(
      ["generate", "--model", other, "--adapter", adapter, "--prompt", "x"],
      1,
      /does not fit the base model[\s\S]*wrong shape/,
    );

    truncateSync(join(model, "model.safetensors"), 100_000);
    await fails(["generate", "--model", model, "--prompt", "x"], 1, /model\.safetensors/);
  });

  it("a merge never writes into a folder with content", async () => {
    const folder = tempFolder();
    const model = await makeModel(join(folder, "model"));
    await fails(["merge", "--model", model, "--out", model], 2, /not empty/);
  });

  it("a full disk leaves what is there", async (context) => {
    const folder = tempFolder();
    const mount = join(folder, "small");
    const script = `mount -t tmpfs -o size=64k none "$0" && echo kept > "$0/kept" && "$@"; code=$?; cat "$0/kept"; ls "$0"; exit $code`;
    const wrapper = inNamespace(context, mount, script);
    const { config } = await makeJob(folder);
    const { code, stdout, stderr } = await lowrank(["train", config, `output_dir=${join(mount, "run")}`, "max_steps=1"], {
      wrapper,
    });
    expect(stderr).toMatch(/too full: .* are needed, .* are free/);
    expect(code).toBe(1);
    expect(stdout.split("\n")[0]).toBe("kept");
  });
});

describe("an output_dir that cannot be written", () => {
  it("is told before anything is loaded", async (context) => {
    const folder = tempFolder();
    const mount = join(folder, "sealed");
    const wrapper = inNamespace(context, mount, 'mount -t tmpfs -o ro none "$0" && exec "$@"');
    const { config } = await makeJob(folder);
    const run = join(mount, "new", "run");
    for (const more of [[], ["--dry-run"]]) {
      const { stderr } = await fails(["train", config, `output_dir=${run}`, ...more], 1, /cannot be written: EROFS/, { wrapper });
      expect(stderr).not.toMatch(/Loading|Tokenising/);
    }
  });

  it("is told at once where the system denies the folder above, as in /proc", async () => {
    const { config } = await makeJob(tempFolder());
    await fails(["train", config, "output_dir=/proc/nowhere/x"], 1, /\/proc\/nowhere\/x cannot be written: (ENOENT|EACCES)/);
  });
});

describe("the machine", () => {
  it("kernels that it cannot run are exit 3, memory that is not there exit 4", async () => {
    const model = await makeModel(join(tempFolder(), "model"));
    await fails(["generate", "--model", model, "--prompt", "x"], 3, /cannot run the kernels "avx1024"/, {
      env: { LOWRANK_ISA: "avx1024" },
    });
    const little = ["sh", "-c", 'ulimit -v 6000000 && exec "$@"', "sh"];
    await fails(["bench", "step", "--model", model, "--seq", "4000000"], 4, /out of memory/, { wrapper: little });
    const { config, out } = await makeJob(tempFolder());
    await fails(["train", config, "lora_rank=20000000"], 4, /out of memory/, {
      wrapper: little,
    });
    expect(() => readdirSync(out)).toThrow(/ENOENT/);
  });
});

describe("the Hub", () => {
  it.each([
    [404, /org\/name is not on the Hub/],
    [403, /org\/name is gated: accept its licence at .*then set HF_TOKEN/],
  ])("answers %i", async (status, sentence) => {
    await withHub(
      (_, response) => response.writeHead(status).end(),
      async (env) => void (await fails(["chat", "--model", "org/name"], 1, sentence, { env })),
    );
  });

  it("is asked once for a model that is merged, in its files or in memory", async () => {
    const peft = await tinyPeft();
    const folder = tempFolder();
    await peft.savePretrained(join(folder, "adapter"));
    peft.dispose();
    const model = await makeModel(join(folder, "model"));
    const commit = "0123456789abcdef0123456789abcdef01234567";
    let asked = 0;
    const answer: RequestListener = (request, response) => {
      const [, file] = request.url!.split(`/org/name/resolve/${commit}/`);
      if (file !== undefined) return response.end(readFileSync(join(model, file)));
      asked++;
      const siblings = readdirSync(model).map((rfilename) => {
        const bytes = readFileSync(join(model, rfilename));
        const blobId = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
        return { rfilename, size: bytes.length, blobId };
      });
      return response.end(JSON.stringify({ sha: commit, siblings }));
    };
    await withHub(answer, async (env) => {
      for (const more of [["--adapter", join(folder, "adapter")], []]) {
        asked = 0;
        const out = join(folder, `merged${more.length}`);
        expect(await lowrank(["merge", "--model", "org/name", ...more, "--out", out], { env })).toMatchObject({ code: 0 });
        expect(readdirSync(out)).toContain("model.safetensors");
        expect(asked).toBe(1);
      }
    });
  });

  it("is not asked in offline mode", async () => {
    await fails(["chat", "--model", "org/name"], 1, /not in the cache/, { env: { HF_HOME: tempFolder() } });
  });
});
