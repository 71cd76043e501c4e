// Products C (+)= Σ_terms A B: what the linears are made of. One launch computes a list of products; the list lies in device memory.
//
// An operand is read in one of two directions, the same for all products of a launch:
//   kForward   A [rows, depth]   B [columns, depth]   y = x Wᵀ,  u = x Aᵀ
//   kGated     as kForward, of two layers (gate, up) at once: a tile holds columns of both, so that a thread has both sums of an element
//   kBackward  A [rows, depth]   B [depth, columns]   dx = dY W, du = dY B
//   kOuter     A [depth, rows]   B [depth, columns]   dW = dYᵀ x, dA = duᵀ x, dB = dYᵀ u
// A lies in memory as the products are formed: bf16 for LR_MATH_BF16, else float32. bf16 rows begin at multiples of 16 bytes and are zero up to a
// multiple of 8 columns. B of an adapter's term lies likewise; B of the others is any weight, decoded on its way into shared memory.
#ifndef LOWRANK_CUDA_DEVICE_GEMM_CUH
#define LOWRANK_CUDA_DEVICE_GEMM_CUH
#include <vector>

#include "glu.cuh"
#include "philox.cuh"
#include "weight.cuh"

namespace lr {

enum Side { kForward, kGated, kBackward, kOuter };
template <Side S> constexpr bool kAlong = S == kForward || S == kGated; // the depth runs along a row of B

struct Term {
  const void* a;
  int64_t a_stride, depth;
  int64_t row_begin, row_end; // rows of the product that it adds to; the others see zeros
  lr_weight b;
  int32_t layer; // of an adapter: of kGated 0 adds to the gate, 1 to up
};

struct Product {
  float* c; // element (row, column) at c[row * stride + column]
  int64_t stride, rows, columns;
  int32_t first_term, adapters, terms; // terms[first_term ..): `adapters` of them first, multiplied with the dropout mask when all are summed
  int32_t accumulate;                  // C += instead of =; not of kForward
  const void* bias;                    // [columns] or NULL; not of kBackward and kOuter
  int32_t bias_dtype;
  const float* residual;               // lies as C, or NULL; of kForward only
  // Of kGated: c and bias are the gate's, and behind the adapters the terms are W of the gate and W of up. c and up may be NULL.
  float *up, *gated;
  const void* up_bias;
  int32_t up_bias_dtype, activation;
  // 0: none. Else the depth is cut into parts of so many steps, and part i is written to c + i * rows * stride: fills the device where C is small.
  int32_t part_depth;
  int64_t parts;
  int64_t first_tile; // of the launch; set by ProductList::upload
};

constexpr int kPartDepth = 512;
inline int64_t parts_of(int64_t depth) { return ceil_div(depth, kPartDepth); }

// A list of products in the making, and the device memory it is copied to.
struct ProductList {
  std::vector<Product> products;
  std::vector<Term> terms;
  void* table = nullptr;

  static int64_t bytes(int64_t products, int64_t terms) { return products * (int64_t)sizeof(Product) + terms * (int64_t)sizeof(Term); }
  void add(const Product& product, const std::vector<Term>& of) {
    products.push_back(product);
    products.back().first_term = (int32_t)terms.size();
    products.back().terms = (int32_t)of.size();
    terms.insert(terms.end(), of.begin(), of.end());
  }
  const Product* on_device() const { return (const Product*)table; }
  const Term* terms_on_device() const { return (const Term*)(on_device() + products.size()); }
  // Copies the list to its table and returns the number of tiles.
  int64_t upload(int64_t tile_rows, int64_t tile_columns) {
    int64_t tiles = 0;
    for (Product& p : products) {
      p.first_tile = tiles;
      tiles += ceil_div(p.rows, tile_rows) * ceil_div(p.columns, tile_columns) * p.parts;
    }
    const size_t bytes = products.size() * sizeof(Product);
    cudaMemcpyAsync(table, products.data(), bytes, cudaMemcpyHostToDevice, stream());
    cudaMemcpyAsync((char*)table + bytes, terms.data(), terms.size() * sizeof(Term), cudaMemcpyHostToDevice, stream());
    return tiles;
  }
};

// Enqueue the launch of a list: by tensor cores, or by fused multiply-adds in float32.
void enqueue_bf16(ProductList& list, Side side, const Dropout& dropout);
void enqueue_f32(ProductList& list, Side side, const Dropout& dropout);
inline void enqueue_products(ProductList& list, Side side, int32_t math, const Dropout& dropout) {
  if (list.products.empty()) return;
  if (math == LR_MATH_BF16) enqueue_bf16(list, side, dropout);
  else enqueue_f32(list, side, dropout);
}

// The tile of a block: 16 rows of tiles at a time, column after column, so that blocks that run together share both operands in L2.
struct TilePlace {
  const Product* product;
  int64_t row0, column0, part;
};
__device__ __forceinline__ TilePlace find_tile(const Product* products, int count, int tile_rows, int tile_columns) {
  constexpr int64_t kGroup = 16;
  int64_t tile = blockIdx.x;
  while (count > 1 && tile >= products[1].first_tile) products++, count--;
  const Product& p = *products;
  tile -= p.first_tile;
  const int64_t rows = (p.rows + tile_rows - 1) / tile_rows, columns = (p.columns + tile_columns - 1) / tile_columns;
  const int64_t part = tile / (rows * columns), at = tile % (rows * columns), group = at / (kGroup * columns), first = group * kGroup;
  const int64_t height = rows - first < kGroup ? rows - first : kGroup, inside = at - first * columns;
  return {products, (first + inside % height) * tile_rows, inside / height * tile_columns, part};
}

// The terms' depths as one sequence of steps.
struct Steps {
  const Term* term;
  int64_t begin, k, end; // of the term's depth
  int32_t left;          // terms, this one included
  int32_t part_depth;

  __device__ void enter() {
    k = begin;
    end = left > 0 ? term->depth : 0;
    if (part_depth && end > begin + part_depth) end = begin + part_depth;
  }
  __device__ Steps(const Product& p, const Term* first, int32_t count, int64_t part) : term(first), begin(part * p.part_depth), left(count), part_depth(p.part_depth) {
    enter();
  }
  __device__ bool done() const { return left == 0; }
  __device__ bool at_start() const { return k == begin; }
  __device__ void next(int step) {
    k += step;
    if (k < end) return;
    term++;
    left--;
    enter();
  }
};

// What becomes of a finished element: c[at], in this column.
template <Side S> __device__ __forceinline__ void finish_element(const Product& p, float* c, int64_t at, int64_t column, float v) {
  if (S == kForward && p.bias) v += load_any(p.bias, p.bias_dtype, column);
  const float* added = S == kForward ? p.residual : p.accumulate ? c : nullptr;
  c[at] = added ? v + added[at] : v;
}
// And of the two sums of an element of kGated.
__device__ __forceinline__ void finish_gated(const Product& p, int64_t at, int64_t column, float gate, float up) {
  if (p.bias) gate += load_any(p.bias, p.bias_dtype, column);
  if (p.up_bias) up += load_any(p.up_bias, p.up_bias_dtype, column);
  if (p.c) p.c[at] = gate;
  if (p.up) p.up[at] = up;
  p.gated[at] = gated(p.activation, gate, up);
}

}  // namespace lr
#endif
