/** The special tokens of the embedded model, in the order of their ids from 0. */
export const SPECIAL_TOKENS = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"] as const;

export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

/** The chat template stored in tokenizer_config.json: one token opens a turn, one ends it. */
export const CHAT_TEMPLATE =
  "{% for message in messages %}" +
  "{% if message['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('roles are system, user and assistant') }}{% endif %}" +
  "{{ '<|' + message['role'] + '|>' }}" +
  "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}" +
  "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}" +
  "{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}";

/** What CHAT_TEMPLATE renders, for the corpus. */
export function renderChat(messages: readonly Message[]): string {
  return messages.map(({ role, content }) => `<|${role}|>${content}<|end|>`).join("");
}
