// Shuffles, votes, matrices: what lanes do together, against the layouts of the ISA.
#include <cmath>

#include "interp_test.h"

using namespace softtest;

namespace {

// warp runs a body in 32 lanes with a = lane + 1 by default.
std::vector<uint64_t> warp(const std::string& body, int result = 32, uint64_t b = 0, uint64_t c = 0) {
  std::vector<Inputs> in;
  for (uint64_t l = 0; l < 32; l++) in.push_back({l + 1, b, c});
  return lanes(body, result, in);
}

void want(const std::string& what, const std::vector<uint64_t>& got, const std::function<uint64_t(int)>& f) {
  for (int l = 0; l < 32; l++)
    if (got[static_cast<size_t>(l)] != f(l)) {
      CHECK(false, what + ": lane " + std::to_string(l) + " has " + hex(got[static_cast<size_t>(l)]) + ", not " + hex(f(l)));
      return;
    }
}

uint16_t bf(float f) { return static_cast<uint16_t>(f32(f) >> 16); }  // for values that fit

}  // namespace

TEST(shuffles) {
  want("idx", warp("shfl.sync.idx.b32 %r, %a, 5, 31, -1;"), [](int) { return 6; });
  want("up", warp("shfl.sync.up.b32 %r, %a, 1, 0, -1;"), [](int l) { return l == 0 ? 1 : l; });
  want("down", warp("shfl.sync.down.b32 %r, %a, 4, 31, -1;"), [](int l) { return l + 4 < 32 ? l + 5 : l + 1; });
  want("bfly", warp("shfl.sync.bfly.b32 %r, %a, 3, 31, -1;"), [](int l) { return (l ^ 3) + 1; });
  // Width 8: the segment mask is 0x18.
  want("down in eights", warp("shfl.sync.down.b32 %r, %a, 4, 0x181f, -1;"), [](int l) { return l % 8 < 4 ? l + 5 : l + 1; });
  want("idx in eights", warp("shfl.sync.idx.b32 %r, %a, 2, 0x181f, -1;"), [](int l) { return l / 8 * 8 + 3; });
  want("up in eights", warp("shfl.sync.up.b32 %r, %a, 1, 0x1800, -1;"), [](int l) { return l % 8 ? l : l + 1; });
  want("predicate of down", warp("shfl.sync.down.b32 %r|%p, %a, 4, 31, -1;", 1), [](int l) { return l < 28 ? 1 : 0; });
  want("predicate of up", warp("shfl.sync.up.b32 %r|%p, %a, 4, 0, -1;", 1), [](int l) { return l >= 4 ? 1 : 0; });
  want("in place", warp("mov.u32 %r, %a; shfl.sync.bfly.b32 %r, %r, 1, 31, -1;"), [](int l) { return (l ^ 1) + 1; });
}

TEST(votes_and_reductions) {
  want("ballot", warp("setp.lt.u32 %q, %a, 5; vote.sync.ballot.b32 %r, %q, -1;"), [](int) { return 0xf; });
  want("any", warp("setp.eq.u32 %q, %a, 5; vote.sync.any.pred %p, %q, -1;", 1), [](int) { return 1; });
  want("all", warp("setp.eq.u32 %q, %a, 5; vote.sync.all.pred %p, %q, -1;", 1), [](int) { return 0; });
  want("all not", warp("setp.eq.u32 %q, %a, 50; vote.sync.all.pred %p, !%q, -1;", 1), [](int) { return 1; });
  want("uni", warp("setp.eq.u32 %q, %a, 50; vote.sync.uni.pred %p, %q, -1;", 1), [](int) { return 1; });
  want("activemask", warp("activemask.b32 %r;"), [](int) { return 0xffffffff; });
  want("match any", warp("and.b32 %s, %a, 1; match.any.sync.b32 %r, %s, -1;"), [](int l) { return l & 1 ? 0xaaaaaaaa : 0x55555555; });
  want("match all", warp("match.all.sync.b32 %r|%p, 7, -1;"), [](int) { return 0xffffffff; });
  want("redux add", warp("redux.sync.add.u32 %r, %a, -1;"), [](int) { return 528; });
  want("redux min", warp("neg.s32 %s, %a; redux.sync.min.s32 %r, %s, -1;"), [](int) { return 0xffffffe0; });
  want("redux max", warp("redux.sync.max.u32 %r, %a, -1;"), [](int) { return 32; });
  want("redux xor", warp("redux.sync.xor.b32 %r, %a, -1;"), [](int) { return 32; });
  want("two halves", warp("setp.lt.u32 %p, %t, 16; @%p bra L; redux.sync.add.u32 %r, %a, 0xffff0000; bra D;\nL: redux.sync.add.u32 %r, %a, 0xffff;\nD:"),
       [](int l) { return l < 16 ? 136 : 392; });
  want("lanemask", warp("mov.u32 %r, %lanemask_lt;"), [](int l) { return (1u << l) - 1; });
  want("lanemask ge", warp("mov.u32 %r, %lanemask_ge;"), [](int l) { return ~((1u << l) - 1); });
  want("laneid", warp("mov.u32 %r, %laneid;"), [](int l) { return l; });
}

TEST(ldmatrix_layouts) {
  // Shared memory holds 4 matrices of 8×8: element (m, r, c) is m·64 + r·8 + c.
  std::string fill =
      ".shared .align 16 .b16 m[256];\n"
      "mov.u32 %y0, m; shl.b32 %y1, %t, 4; add.u32 %y1, %y0, %y1; shl.b32 %y2, %t, 3;\n"
      "cvt.u16.u32 %z0, %y2;\n";
  for (int c = 0; c < 8; c++) fill += "add.s16 %z1, %z0, " + std::to_string(c) + "; st.shared.u16 [%y1+" + std::to_string(2 * c) + "], %z1;\n";
  fill += "bar.warp.sync -1;\n";
  auto element = [](int m, int r, int c) { return static_cast<uint32_t>(m * 64 + r * 8 + c); };
  for (int m = 0; m < 4; m++) {
    std::string to = "{";
    for (int k = 0; k < 4; k++) to += std::string(k ? ", " : "") + (k == m ? "%r" : "%y" + std::to_string(8 + k));
    want("x4 matrix " + std::to_string(m), warp(fill + "ldmatrix.sync.aligned.m8n8.x4.shared.b16 " + to + "}, [%y1];"),
         [&](int l) { return pair(element(m, l / 4, l % 4 * 2), element(m, l / 4, l % 4 * 2 + 1)); });
    want("x4.trans matrix " + std::to_string(m), warp(fill + "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 " + to + "}, [%y1];"),
         [&](int l) { return pair(element(m, l % 4 * 2, l / 4), element(m, l % 4 * 2 + 1, l / 4)); });
  }
  want("x2", warp(fill + "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%y8, %r}, [%y1];"), [&](int l) { return pair(element(1, l / 4, l % 4 * 2), element(1, l / 4, l % 4 * 2 + 1)); });
  want("x1", warp(fill + "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r}, [%y1];"), [&](int l) { return pair(element(0, l / 4, l % 4 * 2), element(0, l / 4, l % 4 * 2 + 1)); });
  want("generic address", warp(fill + "cvt.u64.u32 %x0, %y1; cvta.shared.u64 %x0, %x0; ldmatrix.sync.aligned.m8n8.x1.b16 {%r}, [%x0];"),
       [&](int l) { return pair(element(0, l / 4, l % 4 * 2), element(0, l / 4, l % 4 * 2 + 1)); });
  want("movmatrix", warp("shl.b32 %y0, %t, 1; shl.b32 %y1, %y0, 16; add.u32 %y1, %y1, 0x10000; or.b32 %y0, %y0, %y1; movmatrix.sync.aligned.m8n8.trans.b16 %r, %y0;"),
       [&](int l) { return pair(element(0, l % 4 * 2, l / 4), element(0, l % 4 * 2 + 1, l / 4)); });
}

namespace {

// Mma runs one product of matrices given by element, laid out by the tables of the ISA
// (written out here once more, independently of the interpreter's).
struct Mma {
  std::string name;
  int k, bits;  // of an element of A and B
  bool half_sum = false;
  std::function<uint32_t(int, int)> a, b;  // patterns of A(row, k), B(k, col)
  std::function<double(int, int)> av, bv, c;  // values
};

void check_mma(const Mma& m, bool integer = false) {
  int e = 32 / m.bits, nb = m.k / (4 * e), na = 2 * nb, nc = m.half_sum ? 2 : 4;
  Machine machine;
  std::string regs = ".reg .b32 %a<4>, %b<2>, %c<4>, %d<4>, %t, %y; .reg .b64 %in, %out;\n";
  std::string ptx = std::string(kHeader) + ".visible .entry t(.param .u64 in, .param .u64 out) {\n" + regs +
                    "mov.u32 %t, %tid.x; ld.param.u64 %in, [in]; ld.param.u64 %out, [out]; mad.wide.u32 %in, %t, 40, %in; mad.wide.u32 %out, %t, 16, %out;\n";
  auto list = [](const char* r, int n) {
    std::string s = "{";
    for (int i = 0; i < n; i++) s += (i ? ", %" : "%") + std::string(r) + std::to_string(i);
    return s + "}";
  };
  for (int i = 0; i < na; i++) ptx += "ld.global.b32 %a" + std::to_string(i) + ", [%in+" + std::to_string(4 * i) + "];\n";
  for (int i = 0; i < nb; i++) ptx += "ld.global.b32 %b" + std::to_string(i) + ", [%in+" + std::to_string(16 + 4 * i) + "];\n";
  for (int i = 0; i < nc; i++) ptx += "ld.global.b32 %c" + std::to_string(i) + ", [%in+" + std::to_string(24 + 4 * i) + "];\n";
  ptx += "mma.sync.aligned." + m.name + " " + list("d", nc) + ", " + list("a", na) + ", " + list("b", nb) + ", " + list("c", nc) + ";\n";
  for (int i = 0; i < nc; i++) ptx += "st.global.b32 [%out+" + std::to_string(4 * i) + "], %d" + std::to_string(i) + ";\n";
  ptx += "ret;\n}\n";
  if (!machine.load(ptx)) return fail(__FILE__, __LINE__, machine.error);

  std::vector<uint32_t> in(32 * 10, 0);
  auto c_bits = [&](int row, int col) -> uint32_t {
    double v = m.c(row, col);
    if (integer) return static_cast<uint32_t>(static_cast<int32_t>(v));
    if (!m.half_sum) return f32(static_cast<float>(v));
    // small integers as f16
    if (v == 0) return 0;
    int ex;
    double f = std::frexp(std::fabs(v), &ex);
    return (v < 0 ? 0x8000u : 0) | static_cast<uint32_t>(ex + 14) << 10 | static_cast<uint32_t>((2 * f - 1) * 1024);
  };
  for (int l = 0; l < 32; l++) {
    int g = l >> 2, t = l & 3;
    auto* p = &in[static_cast<size_t>(l) * 10];
    // A: a register is four rows of the ISA's table: rows g and g+8, then the next columns.
    for (int r = 0; r < na; r++)
      for (int i = 0; i < e; i++) p[r] |= m.a(r % 2 ? g + 8 : g, t * e + i + (r >= 2 ? 4 * e : 0)) << (m.bits == 32 ? 0 : m.bits * i);
    for (int r = 0; r < nb; r++)
      for (int i = 0; i < e; i++) p[4 + r] |= m.b(t * e + i + (r ? 4 * e : 0), g) << (m.bits == 32 ? 0 : m.bits * i);
    if (m.half_sum)
      for (int r = 0; r < 2; r++) p[6 + r] = pair(c_bits(g + 8 * r, 2 * t), c_bits(g + 8 * r, 2 * t + 1));
    else
      for (int r = 0; r < 4; r++) p[6 + r] = c_bits(r < 2 ? g : g + 8, 2 * t + (r & 1));
  }
  uint64_t from = machine.upload(in), to = machine.empty(32 * 16);
  if (m.half_sum) {
    std::vector<uint32_t> zero(32 * 4, 0);
    std::string why;
    machine.memory.write(to, zero.data(), 512, &why);
  }
  if (!machine.run("t", {1}, {32}, 0, {from, to})) return fail(__FILE__, __LINE__, softcuda::describe(machine.fault));
  auto out = machine.download<uint32_t>(to, 32 * 4);
  for (int row = 0; row < 16; row++)
    for (int col = 0; col < 8; col++) {
      double sum = m.c(row, col);
      for (int k = 0; k < m.k; k++) sum += m.av(row, k) * m.bv(k, col);
      int l = row % 8 * 4 + col / 2;
      double got;
      if (m.half_sum) {
        uint32_t h = out[static_cast<size_t>(l) * 4 + static_cast<size_t>(row / 8)] >> (16 * (col & 1)) & 0xffff;
        got = (h & 0x7fff) == 0 ? 0 : std::ldexp(1 + (h & 0x3ff) / 1024.0, static_cast<int>(h >> 10 & 31) - 15) * (h & 0x8000 ? -1 : 1);
      } else {
        uint32_t b = out[static_cast<size_t>(l) * 4 + static_cast<size_t>(row / 8 * 2 + (col & 1))];
        got = integer ? static_cast<int32_t>(b) : as_f32(b);
      }
      if (got != sum) {
        CHECK(false, m.name + ": (" + std::to_string(row) + "," + std::to_string(col) + ") is " + std::to_string(got) + ", not " + std::to_string(sum));
        return;
      }
    }
}

// Small integers, different in every place, so that a wrong layout shows and sums are
// exact in every format.
double va(int r, int k) { return (r * 3 + k * 5) % 7 - 3; }
double vb(int k, int c) { return (k * 2 + c * 3) % 5 - 2; }
double vc(int r, int c) { return r - 2 * c; }

uint32_t half_bits(double v) {
  if (v == 0) return 0;
  int ex;
  double f = std::frexp(std::fabs(v), &ex);
  return (v < 0 ? 0x8000u : 0) | static_cast<uint32_t>(ex + 14) << 10 | static_cast<uint32_t>((2 * f - 1) * 1024);
}

}  // namespace

TEST(mma_layouts) {
  auto bfa = [](int r, int k) -> uint32_t { return bf(static_cast<float>(va(r, k))); };
  auto bfb = [](int k, int c) -> uint32_t { return bf(static_cast<float>(vb(k, c))); };
  auto ha = [](int r, int k) { return half_bits(va(r, k)); };
  auto hb = [](int k, int c) { return half_bits(vb(k, c)); };
  auto ta = [](int r, int k) { return f32(static_cast<float>(va(r, k))) | 0x1fff; };  // the low bits do not count
  auto tb = [](int k, int c) { return f32(static_cast<float>(vb(k, c))); };
  auto ba = [](int r, int k) -> uint32_t { return static_cast<uint8_t>(static_cast<int>(va(r, k))); };
  auto bb = [](int k, int c) -> uint32_t { return static_cast<uint8_t>(static_cast<int>(vb(k, c))); };
  auto ua = [](int r, int k) -> uint32_t { return static_cast<uint32_t>(va(r, k) + 200); };
  auto vua = [](int r, int k) { return va(r, k) + 200; };
  check_mma({"m16n8k16.row.col.f32.bf16.bf16.f32", 16, 16, false, bfa, bfb, va, vb, vc});
  check_mma({"m16n8k8.row.col.f32.bf16.bf16.f32", 8, 16, false, bfa, bfb, va, vb, vc});
  check_mma({"m16n8k16.row.col.f32.f16.f16.f32", 16, 16, false, ha, hb, va, vb, vc});
  check_mma({"m16n8k8.row.col.f32.f16.f16.f32", 8, 16, false, ha, hb, va, vb, vc});
  check_mma({"m16n8k16.row.col.f16.f16.f16.f16", 16, 16, true, ha, hb, va, vb, vc});
  check_mma({"m16n8k8.row.col.f16.f16.f16.f16", 8, 16, true, ha, hb, va, vb, vc});
  // A zero of .tf32 with low bits set is a subnormal whose upper bits are zero.
  check_mma({"m16n8k8.row.col.f32.tf32.tf32.f32", 8, 32, false, ta, tb, va, vb, vc});
  check_mma({"m16n8k4.row.col.f32.tf32.tf32.f32", 4, 32, false, ta, tb, va, vb, vc});
  check_mma({"m16n8k32.row.col.s32.s8.s8.s32", 32, 8, false, ba, bb, va, vb, vc}, true);
  check_mma({"m16n8k16.row.col.s32.s8.s8.s32", 16, 8, false, ba, bb, va, vb, vc}, true);
  check_mma({"m16n8k32.row.col.s32.u8.s8.s32", 32, 8, false, ua, bb, vua, vb, vc}, true);
  check_mma({"m16n8k16.row.col.s32.s8.u8.s32", 16, 8, false, ba, [](int k, int c) -> uint32_t { return static_cast<uint32_t>(vb(k, c) + 250); }, va, [](int k, int c) { return vb(k, c) + 250; }, vc}, true);
  check_mma({"m16n8k32.row.col.satfinite.s32.s8.s8.s32", 32, 8, false, ba, bb, va, vb, vc}, true);
}

TEST(mma_against_literals) {
  // A is one at (9, 13) and zero elsewhere, so row 9 of the product is row 13 of B.
  // By the table of m16n8k16: a6/a7 are row g+8, columns 2t+8, 2t+9: lane 4·1+2, a7.
  std::string body = "mov.u32 %y0, 0; setp.eq.u32 %q, %t, 6; selp.b32 %y1, 0x3f800000, 0, %q;\n"
                     // B(k, n) = k + 16n as bf16, register 1 of lane 4n+t: k = 2t+8, 2t+9
                     "shr.u32 %y2, %t, 2; shl.b32 %y2, %y2, 4; and.b32 %y3, %t, 3; shl.b32 %y3, %y3, 1; add.u32 %y2, %y2, %y3;\n"
                     "cvt.rn.f32.u32 %y3, %y2; add.u32 %y4, %y2, 1; cvt.rn.f32.u32 %y4, %y4; cvt.rn.bf16x2.f32 %y5, %y4, %y3;\n"
                     "add.u32 %y2, %y2, 8; cvt.rn.f32.u32 %y3, %y2; add.u32 %y4, %y2, 1; cvt.rn.f32.u32 %y4, %y4; cvt.rn.bf16x2.f32 %y6, %y4, %y3;\n"
                     "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%y7, %y8, %r, %y9}, {%y0, %y0, %y0, %y1}, {%y5, %y6}, {%y0, %y0, %y0, %y0};";
  auto got = warp(body);
  // Row 9 = g + 8 with g = 1: lanes 4 to 7, third accumulator, column 2t: 13 + 16·2t.
  want("row 9", got, [](int l) -> uint64_t { return l / 4 == 1 ? f32(static_cast<float>(13 + 32 * (l % 4))) : 0; });
}
