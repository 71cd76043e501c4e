/** README's table says what the golden cases and the library say, and would not if somebody wrote more into it. */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { all, features, ROOT, render, unmentioned, withTable } from "./features.js";

const readme = readFileSync(join(ROOT, "README.md"), "utf8");

describe("README.md", () => {
  it("has the table that the golden cases make; if not: npm run readme", () => {
    expect(readme).toBe(withTable(readme, render(features())));
  });

  it("leaves out no field of PEFT's configuration", () => {
    const table = features();
    expect(unmentioned(table)).toEqual([]);
    const without = table.map((row) => ({ ...row, refused: row.refused.filter((name) => name !== "kasa_config") }));
    expect(unmentioned(without)).toEqual(["kasa_config"]);
  });

  it("links to files that are there", () => {
    const links = [...readme.matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)].map(([, path]) => path!);
    expect(links.length).toBeGreaterThan(10);
    expect(links.filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
  });
});

describe("a claim", () => {
  const claim = { label: "methods", shows: ({ spec }: { spec: { method: string } }) => [spec.method] };

  it("counts the cases that must be right, and none that may be skipped", () => {
    const folder = mkdtempSync(join(tmpdir(), "lowrank-readme-"));
    const add = (name: string, kind: string) => {
      mkdirSync(join(folder, name));
      writeFileSync(join(folder, name, "case.json"), JSON.stringify({ kind, method: "vera" }));
    };
    try {
      add("skipped", "yaml");
      add("absent", "real_logits");
      expect(features(folder, [claim])[0]!.computed.size).toBe(0);
      add("held", "adapter");
      expect(render(features(folder, [claim]))).toContain("| methods | `vera` 1 |  |");
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it("without evidence is an error", () => {
    const tested = { vera: { file: "test/readme/readme.test.ts", title: ["no such", "title"].join(" ") } };
    expect(() => features(undefined, [{ label: "methods", tested }])).toThrow(/vera: .* has no test/);
    expect(() =>
      features(undefined, [{ label: "methods", refused: () => all(["lora", "vera"], (name) => name === "vera") }]),
    ).toThrow(/not refused by name: lora/);
    const both = { label: "kinds", shows: ({ kind }: { kind: string }) => [kind], refused: () => ["swap"] };
    expect(() => features(undefined, [both])).toThrow(/computed and refused: swap/);
    expect(() => withTable("no markers", "")).toThrow(/lacks/);
  });
});
