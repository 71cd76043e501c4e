// What the linears do around their products: operands laid out for them, and the sums of products that were cut in parts. One launch a list.
//
// The adapters of a group lie side by side: u (or du) of all layers is one matrix [rows, width], layer l from column `offset[l]` on, with
// round_up(max rank, 8) columns, zero behind the rank. Layers whose segments cover the same rows so share one product: x is read once.
#ifndef LOWRANK_CUDA_DEVICE_LORA_CUH
#define LOWRANK_CUDA_DEVICE_LORA_CUH
#include "../../abi/linear.h"
#include "gemm.cuh"

namespace lr {

// A list in the making; item i covers `count` elements of the launch from `first` on, its table lies in device memory.
template <class Item> struct List {
  std::vector<Item> items;
  Item* table = nullptr;
  int64_t total = 0;
  void add(Item item, int64_t count) {
    item.first = total;
    total += count;
    items.push_back(item);
  }
  void place(Scratch& scratch) { table = scratch.take<Item>((int64_t)items.size()); }
  void upload() const { cudaMemcpyAsync(table, items.data(), items.size() * sizeof(Item), cudaMemcpyHostToDevice, stream()); }
};
template <class Item> __device__ __forceinline__ const Item& find_item(const Item* items, int count, int64_t at) {
  while (count > 1 && at >= items[1].first) items++, count--;
  return *items;
}

// to [.., width] = from [rows, columns], times the dropout mask where asked, zero elsewhere; an element is a bf16 or a float. Covers the number of
// elements of `to` over 4; strides and widths are multiples of 8.
struct Laying {
  void* to;
  int64_t stride, columns, rows;
  const float* from;
  int64_t from_stride;
  int32_t drop;
  int64_t width, first;
};

// out (+)= out_scale * sum of the parts, for the first out_columns columns; laid = laid_scale * sum, for all of them. Either may be absent.
struct PartSum {
  const float* parts;
  int64_t stride, part_stride, count, rows, columns;
  float* out;
  int64_t out_stride, out_columns;
  float out_scale, laid_scale;
  int32_t accumulate;
  void* laid;
  int64_t laid_stride;
  int64_t first;
};

void enqueue_laying(const List<Laying>& list, int32_t math, const Dropout& dropout);
void enqueue_sums(const List<PartSum>& list, int32_t math);

// An operand of the products, laid out as they want it.
struct Operand {
  char* data;
  int64_t stride, size; // of an element
  Operand rows(int64_t row) const { return {data + row * stride * size, stride, size}; }
  Operand columns(int64_t column) const { return {data + column * size, stride, size}; }
};

namespace {

// A part of the scratch; while an entry is sized, an address that nobody reads, since plans compute with it.
template <class T> T* take_scratch(Scratch& scratch, int64_t n) {
  T* const part = scratch.take<T>(n);
  return part ? part : reinterpret_cast<T*>((uintptr_t)256);
}

// The plan of one entry: its scratch, its lists, in the order in which they are enqueued.
struct Plan {
  const lr_linear_group& g;
  Scratch scratch;
  const int64_t rows, k, size;
  int64_t rank[kMaxLayers], offset[kMaxLayers], width = 0;
  int32_t segments = 0; // of the layer with most
  List<Laying> laying;
  ProductList thin, outer, base;
  List<PartSum> sums, grads; // of thin, of outer

  Plan(lr_queue* queue, const lr_linear_group& group)
      : g(group), scratch(queue), rows(group.x.shape[0]), k(group.x.shape[1]), size(group.math == LR_MATH_BF16 ? 2 : 4) {
    for (int l = 0; l < g.count; l++) {
      rank[l] = round_up(max_rank(g.layers[l]), 8);
      offset[l] = width;
      width += rank[l];
      if (g.layers[l].segment_count > segments) segments = g.layers[l].segment_count;
    }
  }

  // NULL: the layer has no rows there.
  const lr_segment* segment(int layer, int i) const {
    if (i >= g.layers[layer].segment_count) return nullptr;
    const lr_segment& s = g.layers[layer].segments[i];
    return s.row_end > s.row_begin ? &s : nullptr;
  }
  // Calls body(segment number, first layer, last layer + 1) for runs of neighbouring layers that have the same rows there.
  template <class Body> void for_runs(Body body) const {
    for (int i = 0; i < segments; i++)
      for (int l = 0; l < g.count; l++) {
        const lr_segment* s = segment(l, i);
        if (!s) continue;
        int last = l + 1;
        while (last < g.count && segment(last, i) && segment(last, i)->row_begin == s->row_begin && segment(last, i)->row_end == s->row_end) last++;
        body(i, l, last);
        l = last - 1;
      }
  }

  Operand take(int64_t count, int64_t stride) { return {take_scratch<char>(scratch, count * stride * size), stride, size}; }
  // Puts from [count, columns] with `stride` into `to`, width `to_width`; rows up to `to_count` are zero.
  void lay_into(const Operand& to, int64_t to_count, int64_t to_width, const void* from, int64_t count, int64_t columns, int64_t stride, bool drop = false) {
    laying.add({to.data, to.stride, columns, count, (const float*)from, stride, drop, to_width, 0}, to_count * to_width / 4);
  }
  // The whole matrix from [count, columns] as an operand: float32 is used where it lies.
  Operand lay(const void* from, int64_t count, int64_t columns, bool drop = false) {
    if (size == 4 && !drop) return {(char*)from, columns, size};
    const Operand to = take(count, round_up(columns, 8));
    lay_into(to, count, to.stride, from, count, columns, columns, drop);
    return to;
  }
  // A and B of a segment of layer l, in `rank[l]` rows or columns: zeros behind their own rank.
  Operand lay_a(int l, const lr_segment& s) {
    const Operand to = take(rank[l], round_up(k, 8));
    lay_into(to, rank[l], to.stride, s.a.data, rank_of(s), k, k);
    return to;
  }
  Operand lay_b(int l, const lr_segment& s) {
    const int64_t n = g.layers[l].weight.n;
    const Operand to = take(n, rank[l]);
    lay_into(to, n, rank[l], s.b.data, n, rank_of(s), rank_of(s));
    return to;
  }

  lr_weight weight(const Operand& o) const {
    lr_weight w = {};
    w.kind = LR_WEIGHT_DENSE;
    w.dtype = size == 2 ? LR_BF16 : LR_F32;
    w.data = o.data;
    w.k = o.stride;
    return w;
  }
  // [count, columns] = A B in parts of the depth; returns where the parts lie, one behind the other.
  float* add_parts(ProductList& list, int64_t count, int64_t columns, const Operand& a, int64_t depth, const Operand& b) {
    Product p = {};
    p.rows = count;
    p.columns = p.stride = columns;
    p.part_depth = kPartDepth;
    p.parts = parts_of(depth);
    p.c = take_scratch<float>(scratch, p.parts * count * columns);
    list.add(p, {{a.data, a.stride, depth, 0, count, weight(b), 0}});
    return p.c;
  }

  // Finds room for the lists; true when the entry is only being sized.
  bool sizing() {
    laying.place(scratch);
    sums.place(scratch);
    grads.place(scratch);
    for (ProductList* list : {&thin, &outer, &base})
      list->table = scratch.take<char>(ProductList::bytes((int64_t)list->products.size(), (int64_t)list->terms.size()));
    return scratch.sizing();
  }
};

}  // namespace
}  // namespace lr
#endif
