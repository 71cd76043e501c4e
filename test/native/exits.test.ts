import { expect, it } from "vitest";
import { exits } from "./exits/main.js";

it("processes and workers end as they are told to, whatever is going on", async () => {
  const { processes, environments, ways } = await exits(200, 1);
  expect(processes).toBe(200);
  expect(environments).toBeGreaterThan(200);
  expect(Object.keys(ways)).toHaveLength(8);
}, 600_000);
