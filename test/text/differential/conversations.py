"""Random conversations through the templates of real models: python conversations.py SEED COUNT TEMPLATE... > cases.jsonl

A TEMPLATE is a file of Jinja; see jinja_programs.py for what a line holds. With generation marks in a template the lines also
hold the `regions` transformers found (characters counted in code points, so only texts without emoji have them).
"""

import json
import random
import sys

from python_render import render

R = random.Random(int(sys.argv[1]))
TEXTS = ["Hello!", "", " ", "\n", "  padded  ", "multi\nline\n\ntext\n", "<think>\nreasoned\n</think>\n\nanswer", "</think>", "<think>", "a</think>b</think>c",
         "Grüße, 世界! 😀", "\u00a0\u3000x\u2028", "e\u0301\u200d", "<|im_start|>system\nhm<|im_end|>", "{{ messages }}", "{% endfor %}", '"quoted" \\ and \'single\'',
         "<tool_response>\nx\n</tool_response>", "\ttab\r\nCRLF\r", "\ufeffBOM", "0", "x" * 300, "مرحبا", "[INST] <<SYS>>"]


def number():
    return R.choice([0, 1, -1, 1.0, 0.1, -2.5, 1e16, 1e22, 1e-7, 2**53 + 1, 2**63, -(2**80), 100.0, 3.0])


def value(depth=3):
    kinds = [lambda: R.choice(TEXTS), number, lambda: R.choice([True, False, None])]
    if depth > 0:
        kinds += [lambda: [value(depth - 1) for _ in range(R.randint(0, 3))], lambda: {R.choice(["city", "n", "é", "opts", "a b", ""]): value(depth - 1) for _ in range(R.randint(0, 3))}]
    return R.choice(kinds)()


def arguments():
    args = {R.choice(["city", "unit", "n", "opts", "日"]): value() for _ in range(R.randint(0, 3))}
    return R.choice([args, args, args, json.dumps(args), json.dumps(args, ensure_ascii=False)])


def call():
    function = {"name": R.choice(["get_weather", "f", "näme"]), "arguments": arguments()}
    out = {"type": "function", "function": function} if R.random() < 0.8 else function
    if R.random() < 0.4:
        out["id"] = R.choice(["call_1", "123456789", "abcdefghi"])
    return out


def content():
    kind = R.random()
    if kind < 0.8:
        return R.choice(TEXTS)
    if kind < 0.9:
        return [{"type": "text", "text": R.choice(TEXTS)} for _ in range(R.randint(0, 2))]
    if kind < 0.93:
        return [{"type": R.choice(["text", "image"]), "text": R.choice(TEXTS)}, {"type": "image"}]
    return None


def assistant():
    m = {"role": "assistant", "content": content()}
    if R.random() < 0.25:
        m["tool_calls"] = [call() for _ in range(R.choice([0, 1, 1, 1, 2, 3]))]
    if R.random() < 0.2:
        m[R.choice(["reasoning_content", "thinking", "reasoning"])] = R.choice(TEXTS)
    return m


def messages():
    out = []
    if R.random() < 0.5:
        out.append({"role": "system", "content": content()})
    for _ in range(R.randint(0, 4)):
        out.append({"role": "user", "content": content()})
        out.append(assistant())
        while R.random() < 0.3:
            tool = {"role": R.choice(["tool", "tool", "ipython"]), "content": R.choice([content(), {"temperature": number()}, number()])}
            if R.random() < 0.5:
                tool["tool_call_id"] = "call_1"
            if R.random() < 0.3:
                tool["name"] = "get_weather"
            out.append(tool)
    if R.random() < 0.3:
        out.append({"role": "user", "content": content()})
    if R.random() < 0.15:
        R.shuffle(out)
    if R.random() < 0.05:
        out.append({"role": R.choice(["developer", "critic", ""]), "content": R.choice(TEXTS)})
    if R.random() < 0.05 and out:
        out[-1].pop("content", None)
    return out


def tool():
    properties = {R.choice(["city", "unit", "n", "é"]): {"type": "string", "description": R.choice(TEXTS), **({"enum": ["c", "f"]} if R.random() < 0.3 else {}), **({"default": value(1)} if R.random() < 0.3 else {})} for _ in range(R.randint(0, 3))}
    function = {"name": R.choice(["get_weather", "f"]), "description": R.choice(TEXTS), "parameters": {"type": "object", "properties": properties, "required": list(properties)[:1]}}
    return {"type": "function", "function": function} if R.random() < 0.9 else function


paths = sys.argv[3:]
templates = [open(path, encoding="utf8").read() for path in paths]
for _ in range(int(sys.argv[2])):
    template = R.choice(templates)
    variables = {"bos_token": "<s>", "eos_token": R.choice(["</s>", "<|im_end|>"])}
    for name, values in {"date_string": ["26 Jul 2024"], "enable_thinking": [True, False], "tools_in_user_message": [True, False], "custom_tools": [None],
                         "builtin_tools": [["brave_search", "code_interpreter"]], "unk_token": ["<unk>"]}.items():
        if R.random() < (0.8 if name == "date_string" else 0.2):
            variables[name] = R.choice(values)
    case = {"template": template, "messages": messages(), "variables": variables, "tools": R.choice([None, None, [], [tool() for _ in range(R.randint(1, 3))]]),
            "documents": R.choice([None, None, None, [{"title": "t", "text": R.choice(TEXTS)}]]), "addGenerationPrompt": R.random() < 0.5, "continueFinalMessage": R.random() < 0.15}
    astral = any(ord(c) > 0xFFFF for c in json.dumps(case, ensure_ascii=False))
    mask = "generation %}" in template and not astral and not case["continueFinalMessage"]
    print(json.dumps(render(case, mask)))
