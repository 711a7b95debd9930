// ldmatrix, movmatrix and mma.sync, with the fragment layouts of the PTX ISA.
//
// In all of them lane l is in group g = l / 4 at place t = l % 4. A register holds E
// elements (1 of 32 bits, 2 of 16, 4 of 8). Register r of A is row g + 8·(r & 1) from
// column t·E + 4·E·(r >> 1); register r of B is column g from row t·E + 4·E·r; the four
// accumulators of a lane are rows g and g + 8, columns 2t and 2t + 1.
#include <type_traits>

#include "access.h"
#include "numeric.h"
#include "row.h"
#include "shared.h"

namespace softcuda {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

namespace {

int whole_warp(Warp& w, const Inst& i, const char* what) {
  if (w.mask == ~0u) return kNext;
  return fault(w, i, -1, 0, "warp-sync", kErrorLaunchFailed, std::string(what) + " must be executed by all 32 lanes of the warp");
}

// ---- ldmatrix ----

// more: kCount results, then the base; x: 1 narrow, 2 generic.
template <int kCount, bool kTrans>
int load_matrix(Warp& w, const Inst& i) {
  int status = whole_warp(w, i, "ldmatrix");
  if (status != kNext) return status;
  uint32_t at[32];
  constexpr int kRows = 8 * kCount;
  for (int l = 0; l < kRows; l++) {
    uint64_t a = i.x & 1 ? src<uint32_t>(w, i.more[kCount])[l] + static_cast<uint32_t>(i.imm) : src<uint64_t>(w, i.more[kCount])[l] + static_cast<uint64_t>(i.imm);
    if (i.x & 1) a = static_cast<uint32_t>(a);
    if (i.x & 2) a -= kSharedWindow;
    at[l] = a > UINT32_MAX ? UINT32_MAX - 15 : static_cast<uint32_t>(a);
  }
  status = shared_rows(w, i, at, kRows);
  if (status != kNext) return status;
  const uint8_t* shared = w.block->shared;
  for (int m = 0; m < kCount; m++) {
    alignas(64) uint16_t rows[8][8];
    for (int r = 0; r < 8; r++) memcpy(rows[r], shared + at[8 * m + r], 16);
    uint32_t* d = dst<uint32_t>(w, i.more[m]);
    if (kTrans)
      for (int l = 0; l < 32; l++) d[l] = rows[(l & 3) * 2][l >> 2] | static_cast<uint32_t>(rows[(l & 3) * 2 + 1][l >> 2]) << 16;
    else
      memcpy(d, rows, 128);  // row by row is lane by lane
  }
  return kNext;
}

void ldmatrix(Decoder& d) {
  if (!d.has("sync") || !d.has("aligned") || !d.has("m8n8")) d.fail("ldmatrix wants .sync.aligned.m8n8");
  int count = d.has("x4") ? 4 : d.has("x2") ? 2 : d.has("x1") ? 1 : 0;
  bool trans = d.has("trans");
  Space space = space_modifier(d);
  if (count == 0 || d.type() != Type::b16 || (space != Space::shared && space != Space::generic)) d.fail("ldmatrix wants .x1, .x2 or .x4, .shared and .b16");
  d.want(2);
  auto elements = d.elements(0);
  if (elements.size() != static_cast<size_t>(count)) d.fail("ldmatrix.x" + std::to_string(count) + " gives " + std::to_string(count) + " registers");
  Address a = d.address(d.operand(1), space);
  std::vector<Ref> outs;
  for (auto* e : elements) outs.push_back(d.out(*e, Type::b32));
  Handler fn = count == 4 ? (trans ? load_matrix<4, true> : load_matrix<4, false>)
               : count == 2 ? (trans ? load_matrix<2, true> : load_matrix<2, false>)
                            : (trans ? load_matrix<1, true> : load_matrix<1, false>);
  d.put_more(fn, outs, {a.base}, a.offset, (a.narrow ? 1u : 0) | (space == Space::generic ? 2u : 0));
}

int transpose(Warp& w, const Inst& i) {
  int status = whole_warp(w, i, "movmatrix");
  if (status != kNext) return status;
  uint16_t m[8][8];
  memcpy(m, src<uint32_t>(w, i.a), 128);
  uint32_t* d = dst<uint32_t>(w, i.d);
  for (int l = 0; l < 32; l++) d[l] = m[(l & 3) * 2][l >> 2] | static_cast<uint32_t>(m[(l & 3) * 2 + 1][l >> 2]) << 16;
  return kNext;
}

void movmatrix(Decoder& d) {
  if (!d.has("sync") || !d.has("aligned") || !d.has("m8n8") || !d.has("trans") || d.type() != Type::b16) d.fail("movmatrix wants .sync.aligned.m8n8.trans.b16");
  d.want(2);
  Ref a = d.in(1, Type::b32);
  d.put(transpose, d.out(0, Type::b32), a);
}

// ---- mma ----

// The kinds of elements: how many a register holds.
struct Half {
  static constexpr int kElements = 2;
};
struct Brain {
  static constexpr int kElements = 2;
};
struct Tensor {
  static constexpr int kElements = 1;
};
struct Signed {
  static constexpr int kElements = 4;
  static constexpr bool kSigned = true;
};
struct Unsigned {
  static constexpr int kElements = 4;
  static constexpr bool kSigned = false;
};

using Four = float __attribute__((vector_size(16)));
using Words = uint32_t __attribute__((vector_size(32)));
using Integers = int32_t __attribute__((vector_size(32)));
using Halves = uint16_t __attribute__((vector_size(16)));

template <int kK>
void multiply(const float (*a)[kK], const Row* b, Row* c) {
  // Four rows at a time, as each addition waits for the one before it.
  for (int i = 0; i < 16; i += 4) {
    Row s0 = c[i], s1 = c[i + 1], s2 = c[i + 2], s3 = c[i + 3];
    for (int k = 0; k < kK; k++) {
      s0 = multiply_add(a[i][k], b[k], s0);
      s1 = multiply_add(a[i + 1][k], b[k], s1);
      s2 = multiply_add(a[i + 2][k], b[k], s2);
      s3 = multiply_add(a[i + 3][k], b[k], s3);
    }
    c[i] = s0, c[i + 1] = s1, c[i + 2] = s2, c[i + 3] = s3;
  }
}

inline Row widen(Halves h, Brain) {
  return reinterpret_cast<Row>(__builtin_convertvector(h, Words) << 16);
}
inline Row widen(Halves h, Half) {
  Words w = __builtin_convertvector(h, Words), rest = w & 0x7fff, sign = (w & 0x8000) << 16;
  Words scaled = reinterpret_cast<Words>(reinterpret_cast<Row>(rest << 13) * 0x1p112f);
  Words special = 0x7f800000 | rest << 13;
  Words top = reinterpret_cast<Words>(rest >= 0x7c00);
  return reinterpret_cast<Row>(sign | (special & top) | (scaled & ~top));
}

// transpose turns eight rows p into eight vectors that hold the columns one after
// another: three rounds of a perfect shuffle.
template <class V>
void transpose_rows(const V* p, V low, V high, V* x) {
  V y[8];
  for (int k = 0; k < 4; k++) x[2 * k] = __builtin_shuffle(p[k], p[k + 4], low), x[2 * k + 1] = __builtin_shuffle(p[k], p[k + 4], high);
  for (int k = 0; k < 4; k++) y[2 * k] = __builtin_shuffle(x[k], x[k + 4], low), y[2 * k + 1] = __builtin_shuffle(x[k], x[k + 4], high);
  for (int k = 0; k < 4; k++) x[2 * k] = __builtin_shuffle(y[k], y[k + 4], low), x[2 * k + 1] = __builtin_shuffle(y[k], y[k + 4], high);
}

// Of 16-bit elements a register of A is 8 rows of 8 elements as it lies; one of B is
// the same transposed.
template <class T, class, int kK>
void fragments(const Warp& w, const Slot* in, float (*a)[kK], Row* b, std::integral_constant<int, 2>) {
  constexpr int kRegsB = kK / 8, kRegsA = 2 * kRegsB;
  for (int r = 0; r < kRegsA; r++) {
    auto* p = reinterpret_cast<const Halves*>(src<uint32_t>(w, in[r]));
    for (int g = 0; g < 8; g++) {
      Row row = widen(p[g], T{});
      memcpy(&a[g + 8 * (r & 1)][8 * (r >> 1)], &row, sizeof row);
    }
  }
  for (int r = 0; r < kRegsB; r++) {
    Halves x[8];
    transpose_rows(reinterpret_cast<const Halves*>(src<uint32_t>(w, in[kRegsA + r])), Halves{0, 8, 1, 9, 2, 10, 3, 11}, Halves{4, 12, 5, 13, 6, 14, 7, 15}, x);
    for (int k = 0; k < 8; k++) b[8 * r + k] = widen(x[k], T{});
  }
}

// Of 32-bit elements: 8 rows of 4. The low 13 bits of .tf32 do not count.
template <class, class, int kK>
void fragments(const Warp& w, const Slot* in, float (*a)[kK], Row* b, std::integral_constant<int, 1>) {
  constexpr int kRegsB = kK / 4, kRegsA = 2 * kRegsB;
  using W = uint32_t __attribute__((vector_size(16)));
  for (int r = 0; r < kRegsA; r++) {
    auto* p = reinterpret_cast<const W*>(src<uint32_t>(w, in[r]));
    for (int g = 0; g < 8; g++) {
      W row = p[g] & 0xffffe000;
      memcpy(&a[g + 8 * (r & 1)][4 * (r >> 1)], &row, sizeof row);
    }
  }
  for (int r = 0; r < kRegsB; r++) {
    W x[8];
    transpose_rows(reinterpret_cast<const W*>(src<uint32_t>(w, in[kRegsA + r])), W{0, 4, 1, 5}, W{2, 6, 3, 7}, x);
    for (int k = 0; k < 8; k++) x[k] &= 0xffffe000;
    memcpy(&b[4 * r], x, sizeof x);
  }
}

// Of bytes: 8 rows of 16.
using Bytes = uint8_t __attribute__((vector_size(16)));
inline void widen(Bytes bytes, bool is_signed, float* to) {
  // Signed bytes are taken as unsigned ones 128 higher.
  if (is_signed) bytes ^= 0x80;
  float shift = is_signed ? 128 : 0;
  Bytes zero = {};
  Bytes halves[2] = {__builtin_shuffle(bytes, zero, Bytes{0, 16, 1, 16, 2, 16, 3, 16, 4, 16, 5, 16, 6, 16, 7, 16}),
                     __builtin_shuffle(bytes, zero, Bytes{8, 16, 9, 16, 10, 16, 11, 16, 12, 16, 13, 16, 14, 16, 15, 16})};
  for (int h = 0; h < 2; h++) {
    Words v = __builtin_convertvector(reinterpret_cast<Halves>(halves[h]), Words);
    Row row = __builtin_convertvector(reinterpret_cast<Integers>(v), Row) - shift;
    memcpy(to + 8 * h, &row, sizeof row);
  }
}

template <class A, class B, int kK>
void fragments(const Warp& w, const Slot* in, float (*a)[kK], Row* b, std::integral_constant<int, 4>) {
  constexpr int kRegsB = kK / 16, kRegsA = 2 * kRegsB;
  for (int r = 0; r < kRegsA; r++) {
    auto* p = reinterpret_cast<const Bytes*>(src<uint32_t>(w, in[r]));
    for (int g = 0; g < 8; g++) widen(p[g], A::kSigned, &a[g + 8 * (r & 1)][16 * (r >> 1)]);
  }
  for (int r = 0; r < kRegsB; r++) {
    Bytes x[8];
    transpose_rows(reinterpret_cast<const Bytes*>(src<uint32_t>(w, in[kRegsA + r])), Bytes{0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23},
                   Bytes{8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31}, x);
    for (int k = 0; k < 8; k++) {
      alignas(32) float two[16];
      widen(x[k], B::kSigned, two);
      memcpy(&b[16 * r + 2 * k], two, sizeof two);
    }
  }
}

// sums spreads accumulators out into rows, and back.
void gather_sums(const Warp& w, const Slot* in, Row* c) {
  for (int h = 0; h < 2; h++) {
    auto *even = reinterpret_cast<const Four*>(src<float>(w, in[2 * h])), *odd = reinterpret_cast<const Four*>(src<float>(w, in[2 * h + 1]));
    for (int g = 0; g < 8; g++) {
      Four x = even[g], y = odd[g];
      c[g + 8 * h] = Row{x[0], y[0], x[1], y[1], x[2], y[2], x[3], y[3]};
    }
  }
}

void scatter_sums(Warp& w, const Slot* out, const Row* c) {
  for (int h = 0; h < 2; h++) {
    auto *even = reinterpret_cast<Four*>(dst<float>(w, out[2 * h])), *odd = reinterpret_cast<Four*>(dst<float>(w, out[2 * h + 1]));
    for (int g = 0; g < 8; g++) {
      Row r = c[g + 8 * h];
      even[g] = Four{r[0], r[2], r[4], r[6]};
      odd[g] = Four{r[1], r[3], r[5], r[7]};
    }
  }
}

// more: 4 results (2 of f16), A, B, 4 (2) accumulators.
template <class A, int kK, bool kHalfSum>
int mma_float(Warp& w, const Inst& i) {
  int status = whole_warp(w, i, "mma.sync");
  if (status != kNext) return status;
  alignas(64) float a[16][kK];
  alignas(64) Row b[kK], c[16];
  constexpr int kOut = kHalfSum ? 2 : 4, kRegs = 3 * kK / (4 * A::kElements);
  fragments<A, A, kK>(w, i.more + kOut, a, b, std::integral_constant<int, A::kElements>{});
  const Slot* sums = i.more + kOut + kRegs;
  if constexpr (kHalfSum) {
    for (int h = 0; h < 2; h++) {
      auto* p = reinterpret_cast<const Halves*>(src<uint32_t>(w, sums[h]));
      for (int g = 0; g < 8; g++) c[g + 8 * h] = widen(p[g], Half{});
    }
  } else {
    gather_sums(w, sums, c);
  }
  multiply<kK>(a, b, c);
  if constexpr (kHalfSum) {
    for (int h = 0; h < 2; h++)
      for (int l = 0; l < 32; l++) {
        Row r = c[(l >> 2) + 8 * h];
        dst<uint32_t>(w, i.more[h])[l] = f32_to_f16(r[(l & 3) * 2]) | static_cast<uint32_t>(f32_to_f16(r[(l & 3) * 2 + 1])) << 16;
      }
  } else {
    scatter_sums(w, i.more, c);
  }
  return kNext;
}

// Sums of 32 products of bytes are integers below 2^24: floats hold them exactly.
template <class A, class B, int kK>
int mma_int(Warp& w, const Inst& i) {
  int status = whole_warp(w, i, "mma.sync");
  if (status != kNext) return status;
  alignas(64) float a[16][kK];
  alignas(64) Row b[kK], products[16] = {};
  fragments<A, B, kK>(w, i.more + 4, a, b, std::integral_constant<int, 4>{});
  multiply<kK>(a, b, products);
  constexpr int kRegs = 3 * kK / 16;
  alignas(64) int32_t sums[4][32];
  for (int r = 0; r < 16; r++) {
    Integers row = __builtin_convertvector(products[r], Integers);
    row = __builtin_shuffle(row, Integers{0, 2, 4, 6, 1, 3, 5, 7});
    memcpy(&sums[(r >> 3) * 2][(r & 7) * 4], &row, 16);
    memcpy(&sums[(r >> 3) * 2 + 1][(r & 7) * 4], reinterpret_cast<const char*>(&row) + 16, 16);
  }
  for (int r = 0; r < 4; r++) {
    const int32_t* c = src<int32_t>(w, i.more[4 + kRegs + r]);
    int32_t* d = dst<int32_t>(w, i.more[r]);
    bool sat = i.x != 0;
#pragma GCC ivdep
    for (int l = 0; l < 32; l++) {
      auto wrapped = static_cast<int32_t>(static_cast<uint32_t>(c[l]) + static_cast<uint32_t>(sums[r][l]));
      bool over = ((c[l] ^ wrapped) & (sums[r][l] ^ wrapped)) < 0;
      d[l] = sat && over ? (c[l] < 0 ? INT32_MIN : INT32_MAX) : wrapped;
    }
  }
  return kNext;
}

// m8n8k4 of doubles: A is row g, column t; B row t, column g; sums row g, 2t and 2t+1.
int mma_double(Warp& w, const Inst& i) {
  int status = whole_warp(w, i, "mma.sync");
  if (status != kNext) return status;
  double a[32], b[32], c[64];
  memcpy(a, src<double>(w, i.more[2]), sizeof a);
  memcpy(b, src<double>(w, i.more[3]), sizeof b);
  for (int l = 0; l < 32; l++)
    for (int e = 0; e < 2; e++) {
      double sum = src<double>(w, i.more[4 + e])[l];
      for (int k = 0; k < 4; k++) sum = __builtin_fma(a[(l & ~3) + k], b[((l & 3) * 2 + e) * 4 + k], sum);
      c[2 * l + e] = sum;
    }
  for (int e = 0; e < 2; e++)
    for (int l = 0; l < 32; l++) dst<double>(w, i.more[e])[l] = c[2 * l + e];
  return kNext;
}

struct Form {
  std::string_view shape;
  Type d, a, b;
  Handler fn;
  int regs_a, regs_b, regs_c;
};

const Form kForms[] = {
    {"m16n8k16", Type::f32, Type::bf16, Type::bf16, mma_float<Brain, 16, false>, 4, 2, 4},
    {"m16n8k8", Type::f32, Type::bf16, Type::bf16, mma_float<Brain, 8, false>, 2, 1, 4},
    {"m16n8k16", Type::f32, Type::f16, Type::f16, mma_float<Half, 16, false>, 4, 2, 4},
    {"m16n8k8", Type::f32, Type::f16, Type::f16, mma_float<Half, 8, false>, 2, 1, 4},
    {"m16n8k16", Type::f16, Type::f16, Type::f16, mma_float<Half, 16, true>, 4, 2, 2},
    {"m16n8k8", Type::f16, Type::f16, Type::f16, mma_float<Half, 8, true>, 2, 1, 2},
    {"m16n8k8", Type::f32, Type::tf32, Type::tf32, mma_float<Tensor, 8, false>, 4, 2, 4},
    {"m16n8k4", Type::f32, Type::tf32, Type::tf32, mma_float<Tensor, 4, false>, 2, 1, 4},
    {"m16n8k32", Type::s32, Type::s8, Type::s8, mma_int<Signed, Signed, 32>, 4, 2, 4},
    {"m16n8k32", Type::s32, Type::s8, Type::u8, mma_int<Signed, Unsigned, 32>, 4, 2, 4},
    {"m16n8k32", Type::s32, Type::u8, Type::s8, mma_int<Unsigned, Signed, 32>, 4, 2, 4},
    {"m16n8k32", Type::s32, Type::u8, Type::u8, mma_int<Unsigned, Unsigned, 32>, 4, 2, 4},
    {"m16n8k16", Type::s32, Type::s8, Type::s8, mma_int<Signed, Signed, 16>, 2, 1, 4},
    {"m16n8k16", Type::s32, Type::s8, Type::u8, mma_int<Signed, Unsigned, 16>, 2, 1, 4},
    {"m16n8k16", Type::s32, Type::u8, Type::s8, mma_int<Unsigned, Signed, 16>, 2, 1, 4},
    {"m16n8k16", Type::s32, Type::u8, Type::u8, mma_int<Unsigned, Unsigned, 16>, 2, 1, 4},
    {"m8n8k4", Type::f64, Type::f64, Type::f64, mma_double, 1, 1, 2},
};

void mma(Decoder& d) {
  if (!d.has("sync") || !d.has("aligned")) d.fail("mma wants .sync.aligned");
  int shape = d.one_of({"m16n8k16", "m16n8k8", "m16n8k4", "m16n8k32", "m8n8k4"});
  static constexpr std::string_view shapes[] = {"m16n8k16", "m16n8k8", "m16n8k4", "m16n8k32", "m8n8k4"};
  if (shape < 0 || !d.has("row") || !d.has("col")) d.fail("this shape of mma is not supported; known are m16n8k4, k8, k16, k32 and m8n8k4, .row.col");
  bool sat = d.has("satfinite");
  d.has("rn");
  Type td = d.type(), ta = d.type(), tb = d.type(), tc = d.type();
  const Form* form = nullptr;
  for (auto& f : kForms)
    if (f.shape == shapes[shape] && f.d == td && f.a == ta && f.b == tb && tc == td) form = &f;
  if (!form) d.fail("these types are not supported for mma." + std::string(shapes[shape]));
  if (sat && td != Type::s32) d.fail(".satfinite is for integers");
  d.want(4);
  Type cell = td == Type::f64 ? Type::f64 : Type::b32;
  auto registers = [&](size_t at, int n, Type t) {
    auto all = d.elements(at);
    if (all.size() != static_cast<size_t>(n)) d.fail("operand " + std::to_string(at + 1) + " of this mma has " + std::to_string(n) + " registers");
    std::vector<Ref> refs;
    for (auto* e : all) refs.push_back(at == 0 ? d.out(*e, t) : d.in(*e, t));
    return refs;
  };
  Type sum = td == Type::f32 ? Type::f32 : td == Type::f64 ? Type::f64 : Type::b32;
  auto ins = registers(1, form->regs_a, cell), b = registers(2, form->regs_b, cell), c = registers(3, form->regs_c, sum);
  ins.insert(ins.end(), b.begin(), b.end());
  ins.insert(ins.end(), c.begin(), c.end());
  d.put_more(form->fn, registers(0, form->regs_c, sum), ins, 0, sat);
}

}  // namespace

const OpEntry kMatrixOps[] = {{"ldmatrix", ldmatrix}, {"movmatrix", movmatrix}, {"mma", mma}, {"", nullptr}};

}  // namespace softcuda
