// `npm run bench:compare [-- FROM [TO]]`: what got better or worse between two commits in bench/results, beyond the noise.
// Without commits: the last two on record; with one: that one and the last.
import { commitsOf, compare } from "./comparison.js";
import { history } from "./history.js";

const rows = history();
const commits = commitsOf(rows);
const [first, second] = process.argv.slice(2);
const find = (prefix: string) => {
  const found = commits.find((commit) => commit.startsWith(prefix) || prefix.startsWith(commit));
  if (!found) throw new Error(`no row of commit ${prefix} in bench/results; on record are ${commits.join(", ") || "none"}`);
  return found;
};
const to = second ? find(second) : commits.at(-1);
const from = first ? find(first) : commits.at(-2);
if (!from || !to) throw new Error("two commits are needed in bench/results: run `npm run bench -- ops` at each");

const changes = compare(rows, from, to);
const order = ["worse", "better", "measured once", "noise"];
changes.sort((a, b) => order.indexOf(a.verdict) - order.indexOf(b.verdict) || a.gain - b.gain);
console.log(`${from} -> ${to}: ${changes.length} figures that both measured on the same machine`);
for (const { verdict, gain, metric, from: before, to: after, what } of changes)
  if (verdict !== "noise") console.log(`${verdict.padEnd(13)} ${gain.toFixed(3)} x  ${metric} ${before} -> ${after}  ${what}`);
console.log(`within the noise: ${changes.filter((change) => change.verdict === "noise").length}`);
