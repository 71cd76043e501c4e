import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { factExam } from "../../src/quickstart/adapters.js";
import { type ExamResult, examine } from "../../src/quickstart/examine.js";
import { renderChat } from "./template.js";

/** Asks a saved model every fact on the phrasings that it never saw, greedily, its linears in 16 bits or in NF4. */
export async function examineFolder(folder: string, loadIn4bit: boolean): Promise<ExamResult> {
  const model = await AutoModelForCausalLM.fromPretrained(folder, { loadIn4bit, dtype: "float32" });
  try {
    const tokenizer = (await model.tokenizer())!;
    return await examine(factExam(), async (questions) => {
      const prompts = questions.map((content) => tokenizer.encode(`${renderChat([{ role: "user", content }])}<|assistant|>`));
      const answers = await model.generateIds(prompts, { maxNewTokens: 24, doSample: false });
      return answers.map((ids) => tokenizer.decode(ids, { skipSpecialTokens: true }));
    });
  } finally {
    model.dispose();
  }
}
