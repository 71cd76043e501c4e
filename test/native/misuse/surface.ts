/** What native code exports and how each call's arguments are typed, read off src/native/surface.ts and native/abi/backend.h. */
import { readFileSync } from "node:fs";
import ts from "typescript";

export interface Parameter {
  name: string;
  /** As written: "number", "TensorHandle", "Float64Array", "readonly number[]" … */
  type: string;
}
export interface Export {
  /** "alloc", or "kernels.add". */
  name: string;
  parameters: Parameter[];
}

const read = (path: string) => readFileSync(new URL(`../../../${path}`, import.meta.url), "utf8");

/** Every function of the interface `Addon` and of the interfaces that it holds as properties. */
export function exportsOf(path = "src/native/surface.ts"): Export[] {
  const file = ts.createSourceFile(path, read(path), ts.ScriptTarget.Latest, true);
  const interfaces = new Map<string, ts.InterfaceDeclaration>();
  file.forEachChild((node) => {
    if (ts.isInterfaceDeclaration(node)) interfaces.set(node.name.text, node);
  });
  const list = (name: string, prefix: string): Export[] =>
    interfaces.get(name)!.members.flatMap((member) => {
      const key = prefix + (member.name as ts.Identifier).text;
      if (ts.isPropertySignature(member)) {
        const type = member.type?.getText() ?? "";
        return interfaces.has(type) ? list(type, `${key}.`) : [];
      }
      if (!ts.isMethodSignature(member)) throw new Error(`${key} is neither a method nor a property`);
      return [
        {
          name: key,
          parameters: member.parameters.map((p) => ({ name: p.name.getText(), type: p.type?.getText() ?? "any" })),
        },
      ];
    });
  return list("Addon", "");
}

export type Field = { name: string; type: "lr_tensor" | "lr_weight" | "float" | "int32_t" };

/** The fields of a structure of the C table in order, which is how it travels as a Float64Array. */
export function fieldsOf(struct: string): Field[] {
  const header = read("native/abi/backend.h").replace(/\/\*[\s\S]*?\*\//g, "");
  const body = new RegExp(`typedef struct ${struct} \\{([\\s\\S]*?)\\} ${struct};`).exec(header)?.[1];
  if (body === undefined) throw new Error(`backend.h has no ${struct}`);
  return [...body.matchAll(/(\w+)\s+([\w\s,]+);/g)].flatMap(([, type, names]) =>
    names!.split(",").map((name) => ({ name: name.trim(), type: type as Field["type"] })),
  );
}
