// Answers as a whole, token by token, with sampling, and given up after a while.
import { AutoModelForCausalLM } from "lowrank";

const model = await AutoModelForCausalLM.fromPretrained("lowrank/tiny");
const ask = (content: string) => [{ role: "user", content }];

console.log(await model.generate(ask("Tell me Mira's job.")));

for await (const { text, tokenId } of model.stream(ask("Where does Otto live?"))) console.log(tokenId, JSON.stringify(text));

console.log(await model.generate(ask("Hello!"), { temperature: 0.7, topP: 0.9, seed: 1, maxNewTokens: 20 }));

const signal = AbortSignal.timeout(5000);
console.log(await model.generate(ask("Which pet does Lena have?"), { signal, stop: "." }));
model.dispose();
