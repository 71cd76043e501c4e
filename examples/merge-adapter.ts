// Merges an adapter into its base and saves a model that needs no adapter any more. Needs the folder that `npm run quickstart` makes.
import { AutoModelForCausalLM, PeftModel } from "lowrank";

const question = [{ role: "user", content: "Tell me Mira's job." }];
const model = await AutoModelForCausalLM.fromPretrained("lowrank/tiny");
const peft = await PeftModel.fromPretrained(model, "./lowrank-quickstart/sailor");
console.log("with adapter:", await peft.generate(question));

const merged = await peft.mergeAndUnload({ safeMerge: true });
await merged.savePretrained("./merged-model", { dtype: "bfloat16" });
merged.dispose();

const again = await AutoModelForCausalLM.fromPretrained("./merged-model");
console.log("merged:      ", await again.generate(question));
again.dispose();
