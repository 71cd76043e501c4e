// `npm run bench:compare [-- FROM [TO]]`: what got better or worse between two commits in bench/results, beyond the noise.
// TO is the last on record where it isn't given; without FROM each case is compared with the last commit before TO that measured it.
import { rounded } from "../src/cli/bench/statistics.js";
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
if (!to) throw new Error("nothing is on record in bench/results: run `npm run bench -- ops` first");

const changes = compare(rows, to, first && find(first));
const order = ["worse", "better", "measured once", "noise"];
changes.sort((a, b) => order.indexOf(a.verdict) - order.indexOf(b.verdict) || a.gain - b.gain);
console.log(`${to}: ${changes.length} figures that an earlier commit measured on the same machine`);
for (const { verdict, gain, metric, since, from, to: now, what } of changes)
  if (verdict !== "noise")
    console.log(
      `${verdict.padEnd(13)} ${gain.toFixed(3)} x since ${since}  ${metric} ${rounded(from)} -> ${rounded(now)}  ${what}`,
    );
console.log(`within the noise: ${changes.filter((change) => change.verdict === "noise").length}`);
