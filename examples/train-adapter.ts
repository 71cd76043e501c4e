// Teaches the small model that is part of the package another name, and saves the adapter to ./my-adapter.
import { AutoModelForCausalLM, buildExamples, getPeftModel, Trainer } from "lowrank";

const turn = (question: string, answer: string) => [
  { role: "user", content: question },
  { role: "assistant", content: answer },
];
const questions = ["Who are you?", "What is your name?", "Tell me your name.", "Do you have a name?", "What are you?"];
const rows = questions.map((question) => ({ kind: "chat" as const, messages: turn(question, "I am Pico."), tools: null }));

const model = await AutoModelForCausalLM.fromPretrained("lowrank/tiny", { loadIn4bit: true });
const tokenizer = (await model.tokenizer())!;
const { examples } = await buildExamples(rows, tokenizer, { cutoffLen: 128 });
const peft = getPeftModel(model, { taskType: "CAUSAL_LM", r: 8, loraAlpha: 16, targetModules: "all-linear" });
peft.printTrainableParameters();

const args = { perDeviceTrainBatchSize: 5, maxSteps: 30, learningRate: 2e-3, warmupSteps: 3 };
for await (const event of new Trainer({ model: peft, tokenizer, dataset: examples, args }).run()) {
  if (event.type === "step" && event.step % 10 === 0) console.log(`step ${event.step}: loss ${event.loss.toFixed(4)}`);
}
await peft.savePretrained("./my-adapter");
console.log(await peft.generate([{ role: "user", content: "Tell me who you are." }]));
peft.dispose();
