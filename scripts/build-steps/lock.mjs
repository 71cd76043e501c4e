// One build at a time in a checkout.
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

function alive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === "EPERM";
  }
}

/** Runs the body while holding the lock file; waits for another build, takes over a dead one's lock. */
export function withLock(path, say, body) {
  mkdirSync(dirname(path), { recursive: true });
  for (let waited = 0; ; waited++) {
    try {
      writeFileSync(path, String(process.pid), { flag: "wx" });
      break;
    } catch (error) {
      if (error.code !== "EEXIST") throw error;
    }
    let owner = 0;
    let age = 0;
    try {
      owner = Number(readFileSync(path, "utf8"));
      age = Date.now() - statSync(path).mtimeMs;
    } catch {
      continue; // released in between
    }
    // A file without a number is a lock being written just now, unless its writer died before that.
    if (owner > 0 ? !alive(owner) : age > 10_000) rmSync(path, { force: true });
    else {
      if (waited === 0) say(`another build runs (process ${owner || "?"}), waiting for it`);
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
    }
  }
  try {
    return body();
  } finally {
    rmSync(path, { force: true });
  }
}
