import { existsSync, readFileSync } from "node:fs";
import { hostname } from "node:os";

/** What tells one process from every other one, on this machine and across reboots. */
export interface ProcessIdentity {
  pid: number;
  /** Clock ticks since boot at which the process began (Linux), else null. */
  startTime: string | null;
  bootId: string | null;
  host: string;
}

export function thisProcess(): ProcessIdentity {
  return { pid: process.pid, startTime: processStart(process.pid) ?? null, bootId: bootId(), host: hostname() };
}

/** Whether that process may still run. Another machine's processes cannot be seen, so they count as alive. */
export function isAlive(identity: ProcessIdentity): boolean {
  if (identity.host !== hostname()) return true;
  if (identity.bootId !== null && bootId() !== null && identity.bootId !== bootId()) return false;
  if (existsSync("/proc/self/stat")) {
    const start = processStart(identity.pid);
    return start !== undefined && (identity.startTime === null || start === identity.startTime);
  }
  try {
    process.kill(identity.pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** Field 22 of /proc/PID/stat; undefined for a process that is gone or a zombie. */
function processStart(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" "); // the name in parentheses may hold anything
    return fields[0] === "Z" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

function bootId(): string | null {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "latin1").trim();
  } catch {
    return null;
  }
}
