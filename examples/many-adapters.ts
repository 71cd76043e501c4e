// A hundred adapters on one base: memory is the base and the adapters, and each request names its own. Needs what `npm run quickstart` makes.
import { AutoModelForCausalLM, getDevice, PeftModel } from "lowrank";

const folders = ["./lowrank-quickstart/identity", "./lowrank-quickstart/sailor"];
const model = await AutoModelForCausalLM.fromPretrained("lowrank/tiny", { loadIn4bit: true });
const peft = new PeftModel(model);

const before = getDevice().memory.live;
for (let i = 0; i < 100; i++) await peft.loadAdapter(folders[i % 2]!, `user-${i}`);
console.log(`${peft.peftConfig.size} adapters, ${Math.round((getDevice().memory.live - before) / 1e5) / 10} MB`);

const question = [{ role: "user", content: "Who are you?" }];
const users = [7, 42, 99].map((n) => `user-${n}`);
console.log(await Promise.all(users.map((adapter) => peft.generate(question, { adapter }))));

await peft.hotswapAdapter(folders[0]!, "user-7"); // from the next request on
console.log("user-7 now:", await peft.generate(question, { adapter: "user-7" }));
peft.dispose();
