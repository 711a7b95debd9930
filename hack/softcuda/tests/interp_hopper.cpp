// What Hopper adds: wgmma against the layouts of the PTX ISA's tables, written out here
// once more; mbarrier, bulk copies and proxies by what may be seen when; and that each
// check catches what it is for.
#include "interp_test.h"

using namespace softtest;

namespace {

const char* const kHopper = ".version 8.4\n.target sm_90a\n.address_size 64\n";

// A kernel of 128 threads whose shared memory s is `in` (bytes, a multiple of 512), shown to
// the asynchronous proxy; %base is where it lies, %t the thread. `body` leaves sums in %f.
std::string group_kernel(const std::string& body, int sums, int bytes, bool fence = true) {
  std::string ptx = std::string(kHopper) + ".visible .entry k(.param .u64 out, .param .u64 in) {\n.reg .b32 %t, %base, %a<8>, %i<8>; .reg .b64 %in, %out, %d<8>; .reg .f32 %f<128>; .reg .pred %p<4>;\n"
      ".shared .align 1024 .b8 s[" + std::to_string(bytes) + "];\n"
      "ld.param.u64 %out, [out]; ld.param.u64 %in, [in]; mov.u32 %t, %tid.x; mov.u32 %base, s; mov.u32 %i0, %t;\n"
      "COPY: shl.b32 %i1, %i0, 2; cvt.u64.u32 %d0, %i1; add.s64 %d0, %in, %d0; ld.global.u32 %i2, [%d0]; add.u32 %i1, %base, %i1; st.shared.u32 [%i1], %i2;\n"
      "add.u32 %i0, %i0, 128; setp.lt.u32 %p0, %i0, " + std::to_string(bytes / 4) + "; @%p0 bra COPY;\n" +
      (fence ? "fence.proxy.async.shared::cta;\n" : "") + "bar.sync 0;\n";
  for (int i = 0; i < sums; i++) ptx += "mov.f32 %f" + std::to_string(i) + ", 0f3F800000;\n";  // one
  ptx += body + "\nmul.lo.u32 %i3, %t, " + std::to_string(4 * sums) + "; cvt.u64.u32 %d0, %i3; add.s64 %out, %out, %d0;\n";
  for (int i = 0; i < sums; i++) ptx += "st.global.f32 [%out+" + std::to_string(4 * i) + "], %f" + std::to_string(i) + ";\n";
  return ptx + "ret;\n}\n";
}

std::string list(const char* r, int n, int from = 0) {
  std::string s = "{";
  for (int i = 0; i < n; i++) s += (i ? ", %" : "%") + std::string(r) + std::to_string(from + i);
  return s + "}";
}

uint16_t bf(int v) { return static_cast<uint16_t>(f32(static_cast<float>(v)) >> 16); }

// A matrix of rows (of M or N) by 16 (of K), as it lies in shared memory: the ISA's modes.
struct Layout {
  int runs;      // of 16 bytes in a swizzled row: 1 (none), 2 (32 bytes), 4 (64), 8 (128)
  bool by_rows;  // the rows' dimension is contiguous ("MN-major"), not K
  uint32_t leading, stride;
  // at gives the byte of an element.
  uint32_t at(int row, int k) const {
    uint32_t major = static_cast<uint32_t>(by_rows ? row : k), minor = static_cast<uint32_t>(by_rows ? k : row), run = major / 8, byte;
    if (runs == 1) {
      // Core matrices of 8 rows of 16 bytes. Leading goes along K, stride along the rows.
      byte = minor % 8 * 16 + (by_rows ? run * stride + minor / 8 * leading : run * leading + minor / 8 * stride);
    } else {
      auto width = static_cast<uint32_t>(runs);
      byte = run % width * 16 + minor % 8 * width * 16 + minor / 8 * stride + run / width * leading;
      // Swizzle<log2(runs), 4, 3>.
      byte ^= (byte / 128 % width) * 16;
    }
    return byte + major % 8 * 2;
  }
  uint64_t descriptor(uint32_t start) const {
    uint64_t mode = runs == 1 ? 0 : runs == 8 ? 1 : runs == 4 ? 2 : 3;
    return mode << 62 | uint64_t{stride >> 4} << 32 | uint64_t{leading >> 4} << 16 | start >> 4;
  }
};

int element_a(int row, int k) { return (row * 3 + k * 5) % 13 - 6; }
int element_b(int k, int column) { return (k * 7 + column * 2) % 11 - 5; }

int wanted(int row, int column, int n_of_k = 16) {
  int sum = 0;
  for (int k = 0; k < n_of_k; k++) sum += element_a(row, k) * element_b(k, column);
  return sum;
}

// check_layout multiplies [64, 16] by [16, n] with B, and A where from_shared, as given.
void check_layout(const std::string& name, const Layout& a, const Layout& b, bool from_shared, int n) {
  constexpr uint32_t kBytes = 32768, kB = 16384;
  std::vector<uint8_t> image(kBytes, 0);
  auto put = [&](uint32_t at, int v) {
    uint16_t h = bf(v);
    memcpy(&image[at], &h, 2);
  };
  if (from_shared)
    for (int r = 0; r < 64; r++)
      for (int k = 0; k < 16; k++) put(a.at(r, k), element_a(r, k));
  for (int c = 0; c < n; c++)
    for (int k = 0; k < 16; k++) put(kB + b.at(c, k), element_b(k, c));
  std::string body;
  if (!from_shared) {
    // Register r of A: row 16·warp + lane/4 + 8·(r mod 2), columns 2·(lane mod 4) + 8·(r / 2).
    // They lie where A would be, one thread's behind another's.
    for (int t = 0; t < 128; t++)
      for (int r = 0; r < 4; r++)
        for (int e = 0; e < 2; e++)
          put(static_cast<uint32_t>(t * 16 + r * 4 + e * 2), element_a(t / 32 * 16 + t % 32 / 4 + 8 * (r % 2), t % 4 * 2 + 8 * (r / 2) + e));
    body = "shl.b32 %i1, %t, 4; add.u32 %i1, %base, %i1; ld.shared.v4.u32 " + list("a", 4) + ", [%i1];\n";
  }
  body += "mov.u64 %d1, " + std::to_string(static_cast<int64_t>(a.descriptor(0))) + "; mov.u64 %d2, " + std::to_string(static_cast<int64_t>(b.descriptor(kB))) + ";\n"
          "shr.u32 %i1, %base, 4; cvt.u64.u32 %d3, %i1; add.s64 %d1, %d1, %d3; add.s64 %d2, %d2, %d3;\n"
          "wgmma.fence.sync.aligned;\nwgmma.mma_async.sync.aligned.m64n" + std::to_string(n) + "k16.f32.bf16.bf16 " + list("f", n / 2) + ", " + (from_shared ? "%d1" : list("a", 4)) +
          ", %d2, 1, 1, 1" + (from_shared ? (a.by_rows ? ", 1" : ", 0") : "") + (b.by_rows ? ", 1" : ", 0") + ";\nwgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;";
  Machine m;
  if (!m.load(group_kernel(body, n / 2, kBytes))) return fail(__FILE__, __LINE__, name + ": " + m.error);
  uint64_t in = m.upload(image), out = m.empty(128u * static_cast<unsigned>(n) * 2);
  if (!m.run("k", {1}, {128}, 0, {out, in})) return fail(__FILE__, __LINE__, name + ": " + softcuda::describe(m.fault));
  auto got = m.download<float>(out, 64u * static_cast<unsigned>(n));
  for (int t = 0; t < 128; t++)
    for (int i = 0; i < n / 2; i++) {
      // Sum i: row 16·warp + lane/4 + 8·(i/2 mod 2), column 8·(i/4) + 2·(lane mod 4) + i mod 2.
      int row = t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2), column = 8 * (i / 4) + t % 4 * 2 + i % 2;
      float v = got[static_cast<size_t>(t * (n / 2) + i)];
      if (v == static_cast<float>(1 + wanted(row, column))) continue;
      return fail(__FILE__, __LINE__, name + ": row " + std::to_string(row) + ", column " + std::to_string(column) + ": " + std::to_string(v) + ", not " + std::to_string(1 + wanted(row, column)));
    }
}

// along_k are rows of 16 elements of K; those of 64 and 128 bytes have more beside them.
Layout along_k(int runs) { return {runs, false, runs == 1 ? 128u : 16u, static_cast<uint32_t>(runs == 1 ? 256 : 128 * runs)}; }

}  // namespace

TEST(wgmma_layouts) {
  for (int runs : {1, 2, 4, 8}) {
    Layout k = along_k(runs);
    check_layout("K-major, " + std::to_string(runs) + " runs", k, k, true, 64);
    check_layout("A in registers, " + std::to_string(runs) + " runs", k, k, false, 64);
  }
  // Contiguous rows: 64 of M and N. Unswizzled, core matrices follow each other along the
  // rows (stride) and then K (leading); swizzled, eights of K (stride) and then rows (leading).
  check_layout("turned, unswizzled", {1, true, 1024, 128}, {1, true, 1024, 128}, true, 64);
  for (uint32_t runs : {2u, 4u, 8u}) {
    Layout rows{static_cast<int>(runs), true, 2 * 128 * runs, 128 * runs};
    check_layout("turned, " + std::to_string(runs) + " runs", rows, rows, true, 64);
    check_layout("B turned, " + std::to_string(runs) + " runs", along_k(8), rows, false, 64);
  }
  check_layout("the narrowest", along_k(4), along_k(4), true, 8);
  check_layout("the widest", along_k(4), along_k(4), false, 256);
}

namespace {

// A product of [64, 16] by [16, 8] of unswizzled core matrices, of which all elements of A
// are two and those of B three: 96 a sum. A is at 0, B at 2048.
std::string small_product(const std::string& types, const std::string& add, const std::string& signs) {
  return "mov.u64 %d1, " + std::to_string(Layout{1, false, 128, 256}.descriptor(0)) + "; mov.u64 %d2, " + std::to_string(Layout{1, false, 128, 256}.descriptor(2048)) +
         "; shr.u32 %i1, %base, 4; cvt.u64.u32 %d3, %i1; add.s64 %d1, %d1, %d3; add.s64 %d2, %d2, %d3; setp.eq.u32 %p1, %t, %t;\n"
         "wgmma.fence.sync.aligned;\nwgmma.mma_async.sync.aligned.m64n8k16.f32." + types + " {%f0, %f1, %f2, %f3}, %d1, %d2, " + add + ", " + signs + ", 0, 0;\nwgmma.commit_group.sync.aligned;\n";
}

std::vector<uint8_t> small_image(uint16_t two, uint16_t three) {
  std::vector<uint8_t> image(2560);
  for (size_t i = 0; i < image.size(); i += 2) memcpy(&image[i], i < 2048 ? &two : &three, 2);
  return image;
}

// small runs a body with that image and gives the first sum, or NaN and the fault in m.
float small(Machine& m, const std::string& body, uint16_t two = bf(2), uint16_t three = bf(3), bool fence = true) {
  if (!m.load(group_kernel(body, 4, 2560, fence))) return __builtin_nanf("");
  uint64_t in = m.upload(small_image(two, three)), out = m.empty(128 * 16);
  if (!m.run("k", {1}, {128}, 0, {out, in})) {
    m.error = softcuda::describe(m.fault);
    return __builtin_nanf("");
  }
  return m.download<float>(out, 4)[0];
}

const char* const kWait = "wgmma.wait_group.sync.aligned 0;";

void want_small(const std::string& body, float want, uint16_t two = bf(2), uint16_t three = bf(3)) {
  Machine m;
  float got = small(m, body, two, three);
  CHECK(got == want, std::to_string(got) + ", not " + std::to_string(want) + ": " + m.error + " in " + body);
}

void want_error(const std::string& body, const std::string& mentions, bool fence = true) {
  Machine m;
  float got = small(m, body, bf(2), bf(3), fence);
  CHECK(got != got && m.error.find(mentions) != std::string::npos, std::to_string(got) + ", \"" + m.error + "\" where \"" + mentions + "\" is wanted in " + body);
}

}  // namespace

TEST(wgmma_forms) {
  std::string bb = "bf16.bf16";
  want_small(small_product(bb, "1", "1, 1") + kWait, 97);
  want_small(small_product(bb, "0", "1, 1") + kWait, 96);
  want_small(small_product(bb, "%p1", "1, 1") + kWait, 97);
  want_small(small_product(bb, "!%p1", "1, 1") + kWait, 96);
  want_small(small_product(bb, "1", "-1, 1") + kWait, -95);
  want_small(small_product(bb, "1", "1, -1") + kWait, -95);
  want_small(small_product(bb, "1", "-1, -1") + kWait, 97);
  want_small(small_product("f16.f16", "1", "1, 1") + kWait, 97, 0x4000, 0x4200);
  // Of two groups the older is waited for; the sums of both are one chain.
  want_small(small_product(bb, "1", "1, 1") + small_product(bb, "1", "1, 1") + "wgmma.wait_group.sync.aligned 1;\n" + kWait, 193);
  want_error("wgmma.mma_async.sync.aligned.m64n12k16.f32.bf16.bf16 {%f0}, %d1, %d2, 1, 1, 1, 0, 0;", "shape of wgmma");
  want_error("wgmma.mma_async.sync.aligned.m64n8k16.f16.f16.f16 {%a0, %a1}, %d1, %d2, 1, 1, 1, 0, 0;", "types are not supported for wgmma");
  want_error("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1}, %d1, %d2, 1, 1, 1, 0, 0;", "has 4 sums");
}

TEST(wgmma_checks) {
  std::string product = small_product("bf16.bf16", "1", "1, 1");
  want_error(product + "add.f32 %f0, %f0, %f0;\n" + kWait, "is still writing");
  want_error(product + "mov.f32 %f1, 0f00000000;\n" + kWait, "is still writing");
  want_error(product, "is still writing");  // The kernel stores them.
  want_error(product + "wgmma.wait_group.sync.aligned 1;", "is still writing");
  want_error("mov.f32 %f3, 0f00000000;\n" + std::string(product).replace(product.find("wgmma.fence.sync.aligned;"), 25, ""), "since the last wgmma.fence");
  // Register A, changed before the wait.
  std::string in_registers = "mov.u32 %a0, 0; mov.u32 %a1, 0; mov.u32 %a2, 0; mov.u32 %a3, 0; mov.u64 %d2, " + std::to_string(Layout{1, false, 128, 256}.descriptor(2048)) +
                             "; shr.u32 %i1, %base, 4; cvt.u64.u32 %d3, %i1; add.s64 %d2, %d2, %d3;\nwgmma.fence.sync.aligned;\n"
                             "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%f0, %f1, %f2, %f3}, {%a0, %a1, %a2, %a3}, %d2, 1, 1, 1, 0;\nwgmma.commit_group.sync.aligned;\n";
  want_small(in_registers + "add.u32 %i5, %a2, 1;\n" + kWait, 1);
  want_error(in_registers + "mov.u32 %a2, 1;\n" + kWait, "is still reading");
  // In a loop, the next round's product is told by the fence that is not there.
  want_error("mov.u32 %i5, 0;\nLOOP: add.f32 %f0, %f0, %f0;\n" + std::string(product).replace(product.find("wgmma.fence.sync.aligned;"), 25, "") + kWait +
                 "\nadd.u32 %i5, %i5, 1; setp.lt.u32 %p2, %i5, 2; @%p2 bra LOOP;",
             "since the last wgmma.fence");
  // Shared memory: no fence of proxies, one by the reader, and a write while it is read.
  want_error(product + kWait, "no fence.proxy.async between", false);
  {
    Machine m;
    CHECK(small(m, "fence.proxy.async;\n" + product + kWait, bf(2), bf(3), false) == 97, m.error);
  }
  want_error(product + "mov.u32 %i6, 0; st.shared.u32 [%base+2048], %i6;\n" + kWait, "race");
  want_small(product + kWait + "\nbar.sync 0; mov.u32 %i6, 0; setp.eq.u32 %p2, %t, 0; @%p2 st.shared.u32 [%base+2048], %i6;", 97);
  want_error(std::string(product).replace(product.find("mov.u64 %d2"), 11, "mov.u64 %d2, 562949953421312; mov.u64 %d4") + kWait, "base offset");
  want_error("setp.lt.u32 %p2, %t, 16; @%p2 bra L;\n" + product + kWait + "\nL:", "by all lanes of a warp");
}

namespace {

// Two warps, a barrier at b (8 bytes), data at s (256 bytes), in (256 bytes) and out in
// global memory. %p0 is true in the first warp, %p1 in its first lane.
std::string pair_kernel(const std::string& body, int arrivals) {
  return std::string(kHopper) + ".visible .entry k(.param .u64 out, .param .u64 in) {\n.reg .b32 %t, %s, %b, %r<8>; .reg .b64 %in, %out, %d<8>; .reg .pred %p<8>;\n"
      ".shared .align 128 .b8 s[256]; .shared .align 8 .b64 b;\n"
      "ld.param.u64 %out, [out]; ld.param.u64 %in, [in]; mov.u32 %t, %tid.x; mov.u32 %s, s; mov.u32 %b, b; setp.lt.u32 %p0, %t, 32; setp.eq.u32 %p1, %t, 0; mov.u32 %r7, 0;\n"
      "@%p1 mbarrier.init.shared::cta.b64 [%b], " + std::to_string(arrivals) + ";\n@%p1 fence.mbarrier_init.release.cluster;\n@%p1 fence.proxy.async;\nbar.sync 0;\n" +
      body + "\nmul.wide.u32 %d0, %t, 4; add.s64 %d0, %out, %d0; st.global.u32 [%d0], %r7;\nret;\n}\n";
}

// pair gives what thread 32 left in %r7, or ~0 with the fault in m.error. in[i] is i + 1.
uint32_t pair_of_warps(Machine& m, const std::string& body, int arrivals = 1) {
  if (!m.load(pair_kernel(body, arrivals))) return ~0u;
  std::vector<uint32_t> numbers(64);
  for (uint32_t i = 0; i < 64; i++) numbers[i] = i + 1;
  uint64_t in = m.upload(numbers), out = m.empty(256);
  if (!m.run("k", {1}, {64}, 0, {out, in})) {
    m.error = softcuda::describe(m.fault);
    return ~0u;
  }
  return m.download<uint32_t>(out, 64)[32];
}

void want_pair(const std::string& body, uint32_t want, int arrivals = 1) {
  Machine m;
  uint32_t got = pair_of_warps(m, body, arrivals);
  CHECK(got == want, std::to_string(got) + ", not " + std::to_string(want) + ": " + m.error + " in " + body);
}

void pair_error(const std::string& body, const std::string& mentions, int arrivals = 1) {
  Machine m;
  uint32_t got = pair_of_warps(m, body, arrivals);
  CHECK(got == ~0u && m.error.find(mentions) != std::string::npos, std::to_string(got) + ", \"" + m.error + "\" where \"" + mentions + "\" is wanted in " + body);
}

const char* const kWaitZero = "W: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%b], 0;\n@!%p2 bra W;\n";
const char* const kCopy = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%s], [%in], 256, [%b];\n";
const char* const kExpect = "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%b], 256;\n";

}  // namespace

TEST(mbarriers) {
  // What the first warp wrote is there for the second once its lanes have arrived.
  std::string write = "@!%p0 bra SECOND;\nst.shared.u32 [%s], 42;\n", arrive = "mbarrier.arrive.shared::cta.b64 _, [%b];\n";
  std::string one_writes = "@!%p0 bra SECOND;\n@%p1 st.shared.u32 [%s], 42;\n@%p1 mbarrier.arrive.shared::cta.b64 _, [%b];\nbra END;\n";
  want_pair(one_writes + "SECOND:\n" + kWaitZero + "ld.shared.u32 %r7, [%s];\nEND:", 42);
  want_pair(write + arrive + "bra END;\nSECOND:\n" + kWaitZero + "ld.shared.u32 %r7, [%s];\nEND:", 42, 32);
  // Not waited for: whoever comes first, it is a race or nothing is there.
  pair_error(one_writes + "SECOND: ld.shared.u32 %r7, [%s];\nEND:", "which nothing wrote");
  pair_error("@!%p0 bra FIRST;\nnanosleep.u32 1;\n" + std::string(kWaitZero) + "bra END;\nFIRST:\nsetp.eq.u32 %p3, %t, 32;\n@%p3 mbarrier.arrive.shared::cta.b64 _, [%b];\n@%p3 st.shared.u32 [%s], 42;\nEND: @%p1 ld.shared.u32 %r6, [%s];", "race");
  // The phase before has parity 1, and that of a new barrier is over.
  want_pair("mbarrier.test_wait.parity.shared::cta.b64 %p2, [%b], 1;\nselp.u32 %r7, 1, 0, %p2;", 1);
  want_pair("mbarrier.test_wait.parity.shared::cta.b64 %p2, [%b], 0;\nselp.u32 %r7, 1, 0, %p2;", 0);
  // States: that of the phase arrived in, over when the others have come.
  want_pair("@%p1 mbarrier.arrive.shared::cta.b64 _, [%b], 31;\nbar.sync 0;\nsetp.eq.u32 %p3, %t, 32;\n@!%p3 bra END;\nmbarrier.arrive.shared::cta.b64 %d1, [%b];\n"
            "mbarrier.test_wait.shared::cta.b64 %p2, [%b], %d1;\nselp.u32 %r7, 1, 0, %p2;\nmbarrier.arrive.shared::cta.b64 %d1, [%b];\nmbarrier.test_wait.shared::cta.b64 %p2, [%b], %d1;\n@!%p2 add.u32 %r7, %r7, 4;\nEND:",
            5, 32);
  // Generic addresses, and bytes expected without an arrival.
  want_pair("cvt.u64.u32 %d1, %b; cvta.shared.u64 %d1, %d1;\n@%p1 mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%b], 256;\n@%p1 " + std::string(kCopy) +
                "@%p1 mbarrier.arrive.b64 _, [%d1];\nW: mbarrier.try_wait.parity.b64 %p2, [%d1], 0;\n@!%p2 bra W;\nld.shared.u32 %r7, [%s+4];",
            2);
  pair_error("@%p1 mbarrier.arrive.shared::cta.b64 _, [%b], 2;", "2 arrivals where 1 of 1 are pending");
  pair_error("@%p1 mbarrier.init.shared::cta.b64 [%b], 0;", "for 0 arrivals");
  pair_error("@%p1 st.shared.u64 [%s], 0;\n@%p1 mbarrier.arrive.shared::cta.b64 _, [%s];", "no mbarrier.init");
  pair_error("mbarrier.test_wait.parity.shared::cta.b64 %p2, [%b], 2;", "a parity is 0 or 1");
  pair_error("@%p1 mbarrier.inval.shared::cta.b64 [%b];\nbar.sync 0;\n" + std::string(kWaitZero), "no mbarrier.init");
  pair_error(kWaitZero, "lacks 1 arrivals and 0 bytes");
  pair_error("@%p1 " + std::string(kExpect) + kWaitZero, "lacks 0 arrivals and 256 bytes");
  pair_error("mbarrier.arrive.noComplete.shared::cta.b64 _, [%b], 1;", "unknown modifier \".noComplete\"");
  pair_error("mbarrier.pending_count.b64 %r1, %d1;", "of mbarrier only");
}

TEST(bulk_copies) {
  std::string begin = "@%p1 " + std::string(kExpect) + "@%p1 " + kCopy;
  want_pair(begin + kWaitZero + "ld.shared.u32 %r7, [%s+128];", 33);
  pair_error(begin + "ld.shared.u32 %r7, [%s+128];\n" + kWaitZero, "which nothing wrote");
  // Waited for by one warp and read by another.
  pair_error(begin + "@!%p0 bra READ;\n" + kWaitZero + "bra END;\nREAD: mov.u32 %r3, 0;\nSPIN: add.u32 %r3, %r3, 1; setp.lt.u32 %p4, %r3, 40000; @%p4 bra SPIN; ld.shared.u32 %r7, [%s+128];\nEND:", "a bulk copy that nobody has waited for");
  want_pair(begin + "@!%p0 bra READ;\n" + kWaitZero + "READ: bar.sync 0;\nld.shared.u32 %r7, [%s+128];", 33);
  pair_error(begin, "nobody has waited for a bulk copy");
  pair_error("@%p1 " + std::string(kExpect) + "@%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%s], [%in], 24, [%b];\n", "no multiple of 16");
  pair_error("@%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%s+8], [%in], 16, [%b];\n", "misaligned");
  pair_error("@%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%s], [%in+16], 256, [%b];\n", "past the end");
  pair_error("@%p1 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%s], [%out], 256, [%b];\n", "nothing wrote");
  pair_error(begin + "@%p1 " + kCopy, "two bulk copies");
  // A thread writes where a copy is under way, or before it without a barrier.
  pair_error(begin + "@%p1 st.shared.u32 [%s], 1;\n" + kWaitZero, "race");
  pair_error("setp.eq.u32 %p3, %t, 33;\n@%p3 st.shared.u32 [%s], 1;\n@%p0 bra COPY;\nbra END;\nCOPY: @%p1 nanosleep.u32 1;\n" + begin + kWaitZero + "END:", "race");
  pair_error("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%s], [%d1], [%b];", "of bulk copies only");
  pair_error("cp.async.bulk.global.shared::cta.bulk_group [%out], [%s], 256;", "of bulk copies only");
}

TEST(copies_that_arrive) {
  // All lanes of the first warp copy 4 bytes each and arrive with them.
  std::string copy = "@!%p0 bra SECOND;\nmul.wide.u32 %d1, %t, 4; add.s64 %d1, %in, %d1; shl.b32 %r1, %t, 2; add.u32 %r1, %s, %r1;\ncp.async.ca.shared.global [%r1], [%d1], 4;\n";
  want_pair(copy + "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%b];\nbra END;\nSECOND:\n" + kWaitZero + "ld.shared.u32 %r7, [%s+124];\nEND:", 32, 32);
  want_pair(copy + "cp.async.mbarrier.arrive.shared::cta.b64 [%b];\nmbarrier.arrive.shared::cta.b64 _, [%b];\nbra END;\nSECOND:\n" + kWaitZero + "ld.shared.u32 %r7, [%s+124];\nEND:", 32, 32);
  // Arriving alone does not bring what is copied.
  pair_error(copy + "mbarrier.arrive.shared::cta.b64 _, [%b];\nbra END;\nSECOND:\n" + std::string(kWaitZero) + "ld.shared.u32 %r7, [%s+124];\nEND:", "nothing wrote", 32);
}

TEST(elect_and_registers) {
  want_pair("elect.sync %r1|%p3, -1;\nselp.u32 %r7, 7, 0, %p3;\nadd.u32 %r7, %r7, %r1;", 7);
  pair_error("@%p1 elect.sync %r1|%p3, -1;", "elect.sync must be executed by all lanes");
  want_pair("setmaxnreg.dec.sync.aligned.u32 40;\nsetmaxnreg.inc.sync.aligned.u32 232;\nmov.u32 %r7, 3;", 3);
  pair_error("setmaxnreg.inc.sync.aligned.u32 231;", "multiple of 8");
  pair_error("@%p1 setmaxnreg.inc.sync.aligned.u32 232;", "all lanes of a warp");
}
