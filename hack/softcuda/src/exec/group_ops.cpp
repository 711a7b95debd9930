// wgmma: products of 64 rows by a group of four warps. Warp k of a group has rows 16k to
// 16k+15, in the layout of mma.sync: see matrix.cpp.
//
// A descriptor (PTX ISA, "Matrix descriptor") gives the start, two strides and the mode
// of swizzling. Elements lie in runs of 16 bytes, eight of them along the major dimension
// K (or, transposed, M or N). Without swizzling eight runs behind each other are 8 rows by
// one run. With a swizzle of 2, 4 or 8 runs, rows of so many runs lie behind each other,
// eight of them in a row, and bits 4… of an address are xored with its bits 7….
#include "hopper.h"
#include "numeric.h"
#include "row.h"
#include "shared.h"

namespace softcuda {

using ptx::Type;

namespace {

constexpr int kK = 16, kRows = 16;

constexpr uint32_t kFromRegisters = 1, kHalf = 2, kTransposeA = 4, kTransposeB = 8, kNegateA = 16, kNegateB = 32;

struct Descriptor {
  uint32_t start, leading, stride, runs;  // runs of a swizzled row; 1: not swizzled
  explicit Descriptor(uint64_t d)
      : start(static_cast<uint32_t>(d & 0x3fff) << 4),
        leading(static_cast<uint32_t>(d >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(d >> 32 & 0x3fff) << 4),
        runs((d >> 62) == 0 ? 1 : 16u >> (d >> 62)) {}
  uint32_t swizzled(uint32_t at) const { return at ^ (at >> 7 & (runs - 1)) << 4; }
  // along_k gives where the run of elements 8k… of a row is.
  uint32_t along_k(uint32_t row, uint32_t k) const {
    return swizzled(start + row % 8 * runs * 16 + row / 8 * stride + (runs == 1 ? k * leading : k * 16));
  }
  // along_rows gives where the run of rows 8r… of one k is.
  uint32_t along_rows(uint32_t r, uint32_t k) const {
    if (runs == 1) return start + r * stride + k % 8 * 16 + k / 8 * leading;
    return swizzled(start + r / runs * leading + r % runs * 16 + k % 8 * runs * 16 + k / 8 * stride);
  }
};

// run reads 16 bytes, and notes that the product goes on reading them.
int run(Warp& w, const Inst& i, uint32_t at, uint16_t* to) {
  int status = shared_fresh(w, i, at, true);
  if (status != kNext) return status;
  memcpy(to, w.block->shared + at, 16);
  w.reads.push_back({w.read_group, w.pc - 1, at});
  return kNext;
}

// tile reads [rows, 16] elements from the first row on.
int tile(Warp& w, const Inst& i, const Descriptor& d, bool turned, uint32_t first, uint32_t rows, uint16_t (*to)[kK]) {
  if (!turned) {
    for (uint32_t r = 0; r < rows; r++)
      for (uint32_t k = 0; k < kK / 8; k++)
        if (int status = run(w, i, d.along_k(first + r, k), to[r] + 8 * k); status != kNext) return status;
    return kNext;
  }
  for (uint32_t r = 0; r < rows; r += 8)
    for (uint32_t k = 0; k < kK; k++) {
      uint16_t eight[8];
      if (int status = run(w, i, d.along_rows((first + r) / 8, k), eight); status != kNext) return status;
      for (uint32_t e = 0; e < 8; e++) to[r + e][k] = eight[e];
    }
  return kNext;
}

float widen(uint16_t v, bool half) { return half ? f16_to_f32(v) : bf16_to_f32(v); }

// descriptor gives what all lanes agree upon.
int descriptor(Warp& w, const Inst& i, Slot slot, uint64_t* to) {
  const uint64_t* d = src<uint64_t>(w, slot);
  for (int l = 1; l < 32; l++)
    if (d[l] != d[0]) return fault(w, i, l, 0, "wgmma", kErrorLaunchFailed, "the lanes give different matrix descriptors");
  if (d[0] >> 49 & 7) return fault(w, i, 0, 0, "unsupported", kErrorLaunchFailed, "a matrix descriptor with a base offset is not supported");
  *to = d[0];
  return kNext;
}

// more: N/2 sums, A (4 registers, or a descriptor), the descriptor of B, N/2 sums before;
// a, b: the predicate that says whether they count; imm: N.
int product(Warp& w, const Inst& i) {
  auto n = static_cast<uint32_t>(i.imm);
  bool half = i.x & kHalf;
  if (w.mask != ~0u) return fault(w, i, -1, 0, "warp-sync", kErrorLaunchFailed, "wgmma must be executed by all lanes of four warps");
  if ((w.id | 3) >= w.block->warp_count) return fault(w, i, -1, 0, "warp-sync", kErrorLaunchFailed, "wgmma by a group of less than four warps");
  w.block->counters.shared_accesses++;
  const Slot* in = i.more + n / 2;
  alignas(64) float a[kRows][kK];
  if (i.x & kFromRegisters) {
    for (int r = 0; r < 4; r++) {
      const uint32_t* v = src<uint32_t>(w, *in++);
      for (int l = 0; l < 32; l++) {
        float* to = &a[(l >> 2) + 8 * (r & 1)][(l & 3) * 2 + 8 * (r >> 1)];
        to[0] = widen(static_cast<uint16_t>(v[l]), half), to[1] = widen(static_cast<uint16_t>(v[l] >> 16), half);
      }
    }
  } else {
    uint64_t d = 0;
    uint16_t rows[kRows][kK];
    int status = descriptor(w, i, *in++, &d);
    if (status == kNext) status = tile(w, i, Descriptor(d), i.x & kTransposeA, static_cast<uint32_t>(w.id & 3) * kRows, kRows, rows);
    if (status != kNext) return status;
    for (int r = 0; r < kRows; r++)
      for (int k = 0; k < kK; k++) a[r][k] = widen(rows[r][k], half);
  }
  if (i.x & kNegateA)
    for (auto& row : a)
      for (float& v : row) v = -v;
  uint64_t d = 0;
  int status = descriptor(w, i, *in++, &d);
  if (status != kNext) return status;
  Descriptor of_b(d);
  bool add = ((w.preds[unraw(i.a)] ^ static_cast<uint32_t>(unraw(i.b) ? ~0u : 0)) & 1) != 0;
  for (uint32_t j = 0; j < n / 8; j++) {
    uint16_t columns[8][kK];
    status = tile(w, i, of_b, i.x & kTransposeB, 8 * j, 8, columns);
    if (status != kNext) return status;
    alignas(64) float b[kK][8];
    for (int c = 0; c < 8; c++)
      for (int k = 0; k < kK; k++) b[k][c] = i.x & kNegateB ? -widen(columns[c][k], half) : widen(columns[c][k], half);
    alignas(64) float sums[kRows][8] = {};
    if (add)
      for (uint32_t e = 0; e < 4; e++) {
        const float* s = src<float>(w, in[4 * j + e]);
        for (int l = 0; l < 32; l++) sums[(l >> 2) + 8 * static_cast<int>(e >> 1)][(l & 3) * 2 + static_cast<int>(e & 1)] = s[l];
      }
    for (int r = 0; r < kRows; r += 4) {
      Row s[4];
      memcpy(s, sums[r], sizeof s);
      for (int k = 0; k < kK; k++) {
        Row of_k;
        memcpy(&of_k, b[k], sizeof of_k);
        for (int q = 0; q < 4; q++) s[q] = multiply_add(a[r + q][k], of_k, s[q]);
      }
      memcpy(sums[r], s, sizeof s);
    }
    for (uint32_t e = 0; e < 4; e++) {
      float* s = dst<float>(w, i.more[4 * j + e]);
      for (int l = 0; l < 32; l++) s[l] = sums[(l >> 2) + 8 * static_cast<int>(e >> 1)][(l & 3) * 2 + static_cast<int>(e & 1)];
    }
  }
  return kNext;
}

int whole(Warp& w, const Inst& i) {
  if (w.mask == ~0u) return kNext;
  return fault(w, i, -1, 0, "warp-sync", kErrorLaunchFailed, "wgmma must be executed by all lanes of a warp");
}

int commit(Warp& w, const Inst& i) {
  int status = whole(w, i);
  w.read_group++;
  return status;
}

// wait looks once more at what was read by those groups that are waited for: whoever
// wrote there meanwhile has spoilt the product.
int wait(Warp& w, const Inst& i) {
  int status = whole(w, i);
  auto rest = static_cast<uint32_t>(i.imm);
  uint32_t until = w.read_group > rest ? w.read_group - rest : 0;
  size_t kept = 0;
  for (auto& r : w.reads) {
    if (r.group >= until) {
      w.reads[kept++] = r;
      continue;
    }
    if (status == kNext) status = shared_fresh(w, w.code[r.inst], r.at, false);
  }
  w.reads.resize(kept);
  return status;
}

void wgmma(Decoder& d) {
  d.code().named_barriers = d.code().async_proxy = true;
  int what = d.one_of({"fence", "commit_group", "wait_group", "mma_async"});
  if (what < 0 || !d.has("sync") || !d.has("aligned")) d.fail("wgmma wants .fence, .commit_group, .wait_group or .mma_async, and .sync.aligned");
  if (what < 3) {
    d.want(what == 2 ? 1 : 0);
    int64_t rest = what == 2 ? d.immediate(0, 0, 7, "the number of groups") : 0;
    d.put(what == 0 ? whole : what == 1 ? commit : wait, 0, 0, 0, 0, rest);
    using G = Decoder::Group;
    d.group_step(what == 0 ? G::fence : what == 1 ? G::commit : G::wait);
    return;
  }
  uint32_t n = 0;
  for (uint32_t of = 8; of <= 256 && !n; of += 8)
    if (d.has("m64n" + std::to_string(of) + "k16")) n = of;
  if (!n) d.fail("this shape of wgmma is not supported; known are m64nNk16, N a multiple of 8 up to 256");
  Type td = d.type(), ta = d.type(), tb = d.type();
  if (td != Type::f32 || ta != tb || (ta != Type::bf16 && ta != Type::f16)) d.fail("these types are not supported for wgmma; known are .f32.bf16.bf16 and .f32.f16.f16");
  bool registers = d.operand(1).kind == ptx::Operand::vector;
  d.want(registers ? 7 : 8);
  auto sums = d.elements(0);
  if (sums.size() != n / 2) d.fail("wgmma.m64n" + std::to_string(n) + "k16 has " + std::to_string(n / 2) + " sums a thread, not " + std::to_string(sums.size()));
  std::vector<Ref> outs, ins;
  for (auto* s : sums) outs.push_back(d.out(*s, Type::f32));
  if (registers) {
    auto a = d.elements(1);
    if (a.size() != 4) d.fail("A of wgmma has 4 registers");
    for (auto* e : a) ins.push_back(d.in(*e, Type::b32));
  } else {
    ins.push_back(d.in(1, Type::b64));
  }
  ins.push_back(d.in(2, Type::b64));
  for (auto* s : sums) ins.push_back(d.in(*s, Type::f32));
  PredRef add = d.pred_in(d.operand(3));
  auto sign = [&](size_t at) {
    int64_t v = d.immediate(at, -1, 1, "the sign of a matrix");
    if (v == 0) d.fail("the sign of a matrix is 1 or -1");
    return v < 0;
  };
  uint32_t x = (registers ? kFromRegisters : 0) | (ta == Type::f16 ? kHalf : 0) | (sign(4) ? kNegateA : 0) | (sign(5) ? kNegateB : 0);
  if (!registers && d.immediate(6, 0, 1, "imm-trans-a")) x |= kTransposeA;
  if (d.immediate(registers ? 6 : 7, 0, 1, "imm-trans-b")) x |= kTransposeB;
  Inst& i = d.put_more(product, outs, ins, n, x);
  i.a = raw(add.index);
  i.b = raw(add.flip ? 1 : 0);
  d.group_step(Decoder::Group::product);
}

}  // namespace

const OpEntry kGroupOps[] = {{"wgmma", wgmma}, {"", nullptr}};

}  // namespace softcuda
