import type { Tensor } from "../tensor/tensor.js";

/**
 * A tree of modules whose paths are Hugging Face's names. A field that is a Module, or an array of them, is a child; a subclass lists
 * its own tensors in `tensors()`.
 */
export abstract class Module {
  /** Children by field name, `layers.0` for the members of an array. Names starting with `#` or `_` are not fields of the tree. */
  *children(): Iterable<[name: string, module: Module]> {
    for (const [name, value] of Object.entries(this)) {
      if (value instanceof Module) yield [snakeCase(name), value];
      else if (Array.isArray(value)) {
        for (const [i, item] of value.entries()) if (item instanceof Module) yield [`${snakeCase(name)}.${i}`, item];
      }
    }
  }

  /** All modules below with their paths, parents first; `this` has the path "". */
  *modules(prefix = ""): Iterable<[path: string, module: Module]> {
    yield [prefix, this];
    for (const [name, child] of this.children()) yield* child.modules(prefix === "" ? name : `${prefix}.${name}`);
  }

  /** Own tensors that training may change, by name. */
  tensors(): Iterable<[name: string, tensor: Tensor]> {
    return [];
  }

  /** Tensors that need a gradient, with their paths. */
  *parameters(): Iterable<[path: string, tensor: Tensor]> {
    for (const [path, module] of this.modules()) {
      for (const [name, tensor] of module.tensors())
        if (tensor.requiresGrad) yield [path === "" ? name : `${path}.${name}`, tensor];
    }
  }

  /** The module at a path, or undefined. */
  find(path: string): Module | undefined {
    for (const [name, module] of this.modules()) if (name === path) return module;
    return undefined;
  }

  /** Frees the tensors of the whole tree. Idempotent. */
  dispose(): void {
    for (const [, child] of this.children()) child.dispose();
  }
}

/** `embedTokens` → `embed_tokens`: fields are camelCase here, paths are Hugging Face's. */
function snakeCase(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
