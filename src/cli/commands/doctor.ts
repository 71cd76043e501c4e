import { arch, cpus, freemem, platform, release, totalmem } from "node:os";
import { Command } from "commander";
import { LowrankError } from "../../errors.js";
import { hubCacheFolder } from "../../io/hub-cache.js";
import { formatBytes } from "../../io/space.js";
import { loadAddon } from "../../native/load.js";
import { pluginOf, pluginProblem } from "../../native/plugin.js";
import { getDevice } from "../../tensor/device.js";
import { print, printJson } from "../output.js";

interface Report {
  lowrank: string;
  node: string;
  platform: string;
  cpu: string;
  cores: number;
  memory: { total: number; free: number };
  /** Missing when the addon cannot be loaded; `problems` says why. */
  kernels?: { isa: string; available: string[]; threads: number; bf16: boolean };
  /** Whether device cuda:0 can be opened; if not, what is missing. A machine without a GPU is not a problem. */
  cuda: { plugin: string | undefined; usable: boolean; message?: string; remedy?: string | undefined };
  /** Where models from the Hub are kept. */
  cache: string;
  problems: { message: string; remedy: string | undefined }[];
}

function inspectCuda(): Report["cuda"] {
  const problem = pluginProblem("cuda:0");
  const plugin = pluginOf("cuda:0");
  return problem ? { plugin, usable: false, message: problem.message, remedy: problem.hint } : { plugin, usable: true };
}

function inspect(version: string): Report {
  const report: Report = {
    lowrank: version,
    node: process.version,
    platform: `${platform()} ${release()} ${arch()}`,
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: cpus().length,
    memory: { total: totalmem(), free: freemem() },
    cuda: inspectCuda(),
    cache: hubCacheFolder(),
    problems: [],
  };
  try {
    const { info } = getDevice("cpu");
    report.kernels = { isa: info.isa, available: loadAddon().availableIsas(), threads: info.threads, bf16: info.bf16 };
    if (info.isa === "scalar") {
      report.problems.push({
        message: "The CPU kernels run without vector instructions, which is many times slower.",
        remedy: process.env.LOWRANK_ISA === "scalar" ? "Unset LOWRANK_ISA." : "Use a processor with AVX2.",
      });
    }
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    report.problems.push({ message: error.message, remedy: error.hint });
  }
  return report;
}

/** `lowrank doctor`: what machine this is, which kernels run on it, what is missing and the remedy. Exit 1 when something is missing. */
export function doctorCommand(version: string): Command {
  return new Command("doctor")
    .description("show the machine, the kernels it runs, and what is missing")
    .option("--json", "one JSON line on stdout")
    .action((options: { json?: true }) => {
      const report = inspect(version);
      if (options.json) {
        printJson(report);
      } else {
        print(`lowrank   ${report.lowrank}`);
        print(`Node.js   ${report.node} on ${report.platform}`);
        print(`CPU       ${report.cpu}, ${report.cores} cores`);
        print(`Memory    ${formatBytes(report.memory.free)} free of ${formatBytes(report.memory.total)}`);
        if (report.kernels) {
          const { isa, available, threads, bf16 } = report.kernels;
          print(
            `Kernels   ${isa} (can run ${available.join(", ")}), ${threads} threads, bf16 products ${bf16 ? "native" : "in float32"}`,
          );
        }
        print(`CUDA      ${report.cuda.usable ? "cuda:0 can be used" : report.cuda.message}`);
        if (report.cuda.remedy) print(`          → ${report.cuda.remedy}`);
        print(`Cache     ${report.cache}`);
        for (const problem of report.problems)
          print(`Problem   ${problem.message}${problem.remedy ? `\n          → ${problem.remedy}` : ""}`);
        if (report.problems.length === 0) print("Nothing is missing.");
      }
      if (!report.kernels) process.exitCode = 1;
    });
}
