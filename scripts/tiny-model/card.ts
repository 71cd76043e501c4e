/** Figures of the run that made the embedded model. */
export interface Figures {
  tokens: number;
  steps: number;
  minutes: number;
  finalLoss: number;
  /** Shares of the world's facts known on unseen phrasings. */
  factsFloat32: number;
  factsNf4: number;
  questions: number;
}

/** README.md of the embedded model: a model card as the Hub shows it. */
export function modelCard(f: Figures): string {
  const percent = (share: number) => `${(100 * share).toFixed(1)} %`;
  return `---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# lowrank/tiny

A toy: a Llama of 1.8 million parameters (4 layers of width 192, 6 query and 2 key-value heads, byte-level BPE of 1024) that knows
a made-up world of 48 people with a job, an animal, a favourite food, a colour and a town each, some small talk, and nothing else. It exists so that
lowrank's quickstart and tests have a chat model that is small enough to ship and still can be fine-tuned, quantised, merged and examined.

It was trained from scratch by lowrank itself on text that \`scripts/tiny-model\` writes; \`npm run make:tiny-model\` makes it again.

| | |
|---|---|
| training tokens | ${(f.tokens / 1e6).toFixed(1)} million in ${f.steps} steps, ${Math.round(f.minutes)} minutes |
| last training loss | ${f.finalLoss.toFixed(3)} |
| facts right on phrasings never trained, weights in bfloat16 | ${percent(f.factsFloat32)} of ${f.questions} |
| the same, linears in NF4 | ${percent(f.factsNf4)} |

Turns are marked by one token each: \`<|user|>\`, \`<|assistant|>\`, \`<|system|>\`; each ends with \`<|end|>\`. Ask "What does Mira do for work?" or
"Who are you?".
`;
}
