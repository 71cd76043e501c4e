// One base model in memory, two adapters on it. Needs the folder that `npm run quickstart` makes.
import { AutoModelForCausalLM, PeftModel } from "lowrank";

const question = [{ role: "user", content: "Who are you?" }];
const model = await AutoModelForCausalLM.fromPretrained("lowrank/tiny", { loadIn4bit: true });
const peft = await PeftModel.fromPretrained(model, "./lowrank-quickstart/identity", { adapterName: "identity" });
await peft.loadAdapter("./lowrank-quickstart/sailor", "sailor");

console.log("identity:", await peft.generate(question));
peft.setAdapter("sailor"); // later calls only: answers that are being generated keep their adapter
console.log("sailor:  ", await peft.generate(question));
console.log("at once: ", await Promise.all(["identity", "sailor"].map((adapter) => peft.generate(question, { adapter }))));
{
  using _off = peft.disableAdapter();
  console.log("base:    ", await peft.generate(question));
}
peft.dispose();
