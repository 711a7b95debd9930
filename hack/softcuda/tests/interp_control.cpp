// Branches, divergence, calls, barriers, memory spaces.
#include "interp_test.h"

using namespace softtest;

namespace {

std::vector<uint64_t> warp(const std::string& body, int result = 32) {
  std::vector<Inputs> in;
  for (uint64_t l = 0; l < 32; l++) in.push_back({l, 0, 0});
  return lanes(body, result, in);
}

void want(const std::string& what, const std::vector<uint64_t>& got, const std::function<uint64_t(uint64_t)>& f) {
  for (uint64_t l = 0; l < got.size(); l++)
    if (got[l] != f(l)) return fail(__FILE__, __LINE__, what + ": lane " + std::to_string(l) + " has " + hex(got[l]) + ", not " + hex(f(l)));
}

std::string entry(const std::string& body, const std::string& before = "") {
  return std::string(kHeader) + before +
         ".visible .entry k(.param .u64 out, .param .u64 in) {\n.reg .b32 %r<32>; .reg .b64 %d<16>; .reg .b16 %h<8>; .reg .f32 %f<8>; .reg .pred %p<8>;\n"
         "ld.param.u64 %d0, [out]; ld.param.u64 %d1, [in]; mov.u32 %r0, %tid.x; mad.wide.u32 %d2, %r0, 4, %d0; mad.wide.u32 %d3, %r0, 4, %d1;\n" +
         body + "\n}\n";
}

}  // namespace

TEST(branches_diverge_and_meet) {
  want("if", warp("mov.u32 %r, 1; setp.lt.u32 %p, %t, 7; @%p bra L; add.u32 %r, %r, 10; bra E; L: add.u32 %r, %r, 20; E: add.u32 %r, %r, 100; activemask.b32 %s; setp.eq.u32 %q, %s, -1; @!%q mov.u32 %r, 0;"),
       [](uint64_t l) { return l < 7 ? 121 : 111; });
  want("loop with different lengths", warp("mov.u32 %r, 0; mov.u32 %s, 0; L: setp.ge.u32 %p, %s, %t; @%p bra E; add.u32 %r, %r, %s; add.u32 %s, %s, 1; bra L; E: activemask.b32 %y0; setp.eq.u32 %q, %y0, -1; @!%q mov.u32 %r, 99;"),
       [](uint64_t l) { return l * (l - 1) / 2; });
  want("do-while", warp("mov.u32 %r, 0; L: add.u32 %r, %r, 1; setp.lt.u32 %p, %r, %t; @%p bra L; add.u32 %r, %r, 100;"), [](uint64_t l) { return (l ? l : 1) + 100; });
  want("nested loops", warp("mov.u32 %r, 0; mov.u32 %s, 0;\nO: setp.ge.u32 %p, %s, %t; @%p bra E; mov.u32 %y0, 0;\nI: setp.gt.u32 %q, %y0, %s; @%q bra N; add.u32 %r, %r, 1; add.u32 %y0, %y0, 1; bra I;\nN: add.u32 %s, %s, 1; bra O;\nE:"),
       [](uint64_t l) { return l * (l + 1) / 2; });
  want("loop with break and continue", warp("mov.u32 %r, 0; mov.u32 %s, 0;\nO: add.u32 %s, %s, 1; setp.gt.u32 %p, %s, 20; @%p bra E; and.b32 %y0, %s, 1; setp.eq.u32 %q, %y0, 0; @%q bra O; setp.gt.u32 %p, %s, %t; @%p bra E; add.u32 %r, %r, %s; bra O;\nE: activemask.b32 %y1; setp.ne.u32 %q, %y1, -1; @%q mov.u32 %r, 0;"),
       [](uint64_t l) {
         uint64_t sum = 0;
         for (uint64_t s = 1; s <= 20; s += 2) {
           if (s > l) break;
           sum += s;
         }
         return sum;
       });
  want("switch", warp("{ ts: .branchtargets A, B, C, D; rem.u32 %s, %t, 4; brx.idx %s, ts;\nA: mov.u32 %r, 10; bra E;\nB: mov.u32 %r, 20; bra E;\nC: mov.u32 %r, 30;\nD: mov.u32 %r, 40;\nE: activemask.b32 %y0; setp.ne.u32 %q, %y0, -1; @%q mov.u32 %r, 0; }"),
       [](uint64_t l) { return l % 4 == 0 ? 10 : l % 4 == 1 ? 20 : 40; });
  want("guarded bra.uni", warp("mov.u32 %r, 1; setp.lt.u32 %p, %t, 99; @%p bra.uni L; mov.u32 %r, 2; L:"), [](uint64_t) { return 1; });
}

TEST(early_exit_of_lanes) {
  Machine m;
  CHECK(m.load(entry("setp.ge.u32 %p0, %r0, 5; @%p0 exit; mov.u32 %r1, 3; L: add.u32 %r1, %r1, %r0; setp.lt.u32 %p1, %r1, 20; @%p1 bra L2; st.global.u32 [%d2], %r1; ret; L2: add.u32 %r1, %r1, 1; bra L;")), m.error);
  uint64_t out = m.upload(std::vector<uint32_t>(64, 7));
  CHECK(m.run("k", {1}, {64}, 0, {out, out}), softcuda::describe(m.fault));
  auto got = m.download<uint32_t>(out, 64);
  for (uint32_t l = 0; l < 64; l++) {
    uint32_t v = 3 + l;
    while (v < 20) v += 1 + l;
    CHECK(got[l] == (l < 5 ? v : 7), std::to_string(l) + ": " + std::to_string(got[l]));
  }
}

TEST(calls_are_inlined) {
  std::string f =
      ".func (.param .b32 result) square_plus(.param .b32 x, .param .b64 y) {\n.reg .b32 %r<4>; .reg .b64 %d<2>; .reg .pred %p;\n"
      "ld.param.u32 %r1, [x]; ld.param.u64 %d1, [y]; cvt.u32.u64 %r2, %d1; setp.gt.u32 %p, %r1, 10; @%p bra BIG; mad.lo.u32 %r3, %r1, %r1, %r2; st.param.b32 [result+0], %r3; ret;\n"
      "BIG: st.param.b32 [result], 1000; ret;\n}\n"
      ".func (.reg .b32 r) twice(.reg .b32 a) { .reg .b32 %q; { .param .b32 p0; .param .b64 p1; .param .b32 q0; st.param.b32 [p0+0], a; st.param.b64 [p1+0], 0; call.uni (q0), square_plus, (p0, p1); ld.param.b32 %q, [q0+0]; } add.u32 r, %q, %q; ret; }\n";
  Machine m;
  CHECK(m.load(entry("{ .param .b32 p0; .param .b64 p1; .param .b32 q0; st.param.b32 [p0+0], %r0; st.param.b64 [p1+0], 5; call.uni (q0), square_plus, (p0, p1); ld.param.b32 %r1, [q0+0]; }\n"
                     "setp.lt.u32 %p1, %r0, 3; mov.u32 %r2, 0; @%p1 call (%r2), twice, (%r0); add.u32 %r1, %r1, %r2; activemask.b32 %r3; setp.ne.u32 %p2, %r3, -1; @%p2 trap; st.global.u32 [%d2], %r1; ret;", f)), m.error);
  uint64_t out = m.empty(128);
  CHECK(m.run("k", {1}, {32}, 0, {out, out}), softcuda::describe(m.fault));
  auto got = m.download<uint32_t>(out, 32);
  for (uint32_t l = 0; l < 32; l++) {
    uint32_t want = l > 10 ? 1000 : l * l + 5;
    if (l < 3) want += 2 * l * l;
    CHECK(got[l] == want, std::to_string(l) + ": " + std::to_string(got[l]));
  }
  CHECK(!m.load(entry("call self; ret;", ".func self() { call self; ret; }\n")), "");
  CHECK(m.error.find("recursive") != std::string::npos, m.error);
}

TEST(barriers_order_warps) {
  Machine m;
  std::string body =
      ".shared .align 4 .b32 s[256];\nshl.b32 %r1, %r0, 2; mov.u32 %r2, s; add.u32 %r1, %r2, %r1; st.shared.u32 [%r1], %r0; bar.sync 0;\n"
      "xor.b32 %r3, %r0, 255; shl.b32 %r3, %r3, 2; add.u32 %r3, %r2, %r3; ld.shared.u32 %r4, [%r3]; st.global.u32 [%d2], %r4; ret;";
  CHECK(m.load(entry(body)), m.error);
  uint64_t out = m.empty(1024);
  CHECK(m.run("k", {1}, {256}, 0, {out, out}), softcuda::describe(m.fault));
  auto got = m.download<uint32_t>(out, 256);
  for (uint32_t l = 0; l < 256; l++) CHECK(got[l] == (l ^ 255), std::to_string(l));
  CHECK(m.counters.barriers == 8, std::to_string(m.counters.barriers));
  // The same with two halves of the block at barriers of their own.
  std::string halves =
      ".shared .align 4 .b32 s[256];\nshl.b32 %r1, %r0, 2; mov.u32 %r2, s; add.u32 %r1, %r2, %r1; st.shared.u32 [%r1], %r0; shr.u32 %r5, %r0, 7; add.u32 %r5, %r5, 1; bar.sync %r5, 128;\n"
      "xor.b32 %r3, %r0, 127; shl.b32 %r3, %r3, 2; add.u32 %r3, %r2, %r3; ld.shared.u32 %r4, [%r3]; st.global.u32 [%d2], %r4; ret;";
  CHECK(m.load(entry(halves)), m.error);
  CHECK(m.run("k", {1}, {256}, 0, {out, out}), softcuda::describe(m.fault));
  got = m.download<uint32_t>(out, 256);
  for (uint32_t l = 0; l < 256; l++) CHECK(got[l] == (l ^ 127), std::to_string(l));
  // Producer and consumer: one arrives, the other waits.
  std::string pass =
      ".shared .align 4 .b32 s[64];\nmov.u32 %r2, s; shl.b32 %r1, %r0, 2; setp.ge.u32 %p0, %r0, 32; @%p0 bra READ; add.u32 %r1, %r2, %r1; st.shared.u32 [%r1], %r0; bar.arrive 3, 64; ret;\n"
      "READ: bar.sync 3, 64; add.u32 %r1, %r2, %r1; ld.shared.u32 %r4, [%r1-128]; st.global.u32 [%d2], %r4; ret;";
  CHECK(m.load(entry(pass)), m.error);
  CHECK(m.run("k", {1}, {64}, 0, {out, out}), softcuda::describe(m.fault));
  got = m.download<uint32_t>(out, 64);
  for (uint32_t l = 32; l < 64; l++) CHECK(got[l] == l - 32, std::to_string(l));
  // bar.red counts and joins predicates.
  CHECK(m.load(entry("setp.lt.u32 %p0, %r0, 70; bar.red.popc.u32 %r4, 0, %p0; bar.red.and.pred %p1, 0, %p0; bar.red.or.pred %p2, 0, %p0; selp.u32 %r5, 1000, 0, %p1; selp.u32 %r6, 5000, 0, %p2; add.u32 %r4, %r4, %r5; add.u32 %r4, %r4, %r6; st.global.u32 [%d2], %r4; ret;")), m.error);
  CHECK(m.run("k", {1}, {128}, 0, {out, out}), softcuda::describe(m.fault));
  for (uint32_t v : m.download<uint32_t>(out, 128)) CHECK(v == 5070, std::to_string(v));
}

TEST(memory_spaces) {
  Machine m;
  std::string vars =
      ".const .align 4 .b32 table[4] = {10, 20, 30, 40};\n.global .align 4 .f32 scale = 0f40000000;\n.global .align 8 .u64 pointer = scale;\n.global .align 2 .b16 shorts[] = {1, 2, 3};\n"
      ".extern .shared .align 16 .b8 dynamic[];\n";
  std::string body =
      // const, indexed
      "and.b32 %r1, %r0, 3; mul.wide.u32 %d4, %r1, 4; mov.u64 %d5, table; add.s64 %d4, %d5, %d4; ld.const.u32 %r2, [%d4];\n"
      // a pointer in an initial value, followed generically
      "ld.global.u64 %d6, [pointer]; ld.f32 %f1, [%d6]; cvt.rzi.u32.f32 %r3, %f1; mul.lo.u32 %r2, %r2, %r3;\n"
      "ld.global.u16 %h1, [shorts+4]; cvt.u32.u16 %r4, %h1; add.u32 %r2, %r2, %r4;\n"
      // local memory through a generic address
      ".local .align 8 .b8 depot[64];\n.reg .b64 %SP, %SPL; mov.u64 %SPL, depot; cvta.local.u64 %SP, %SPL; add.u64 %d7, %SPL, 8; st.local.u32 [%d7], %r2; add.u64 %d8, %SP, 8; ld.u32 %r5, [%d8];\n"
      // dynamic shared memory through a generic address
      "mov.u64 %d9, dynamic; cvta.shared.u64 %d10, %d9; mad.wide.u32 %d10, %r0, 4, %d10; st.u32 [%d10], %r5; ld.u32 %r6, [%d10];\n"
      "cvta.to.shared.u64 %d11, %d10; ld.shared.u32 %r7, [%d11]; add.u32 %r6, %r6, %r7;\n"
      "isspacep.shared %p1, %d10; isspacep.global %p2, %d0; isspacep.local %p3, %SP; and.pred %p1, %p1, %p2; and.pred %p1, %p1, %p3; @!%p1 trap;\n"
      "st.global.u32 [%d2], %r6; ret;";
  CHECK(m.load(entry(body, vars)), m.error);
  uint64_t out = m.empty(256);
  CHECK(m.run("k", {1}, {64}, 256, {out, out}), softcuda::describe(m.fault));
  auto got = m.download<uint32_t>(out, 64);
  for (uint32_t l = 0; l < 64; l++) CHECK(got[l] == 2 * ((l % 4 + 1) * 10 * 2 + 3), std::to_string(l) + ": " + std::to_string(got[l]));
  uint64_t at;
  size_t bytes;
  CHECK(m.program->global("shorts", &at, &bytes) && bytes == 6, "");
  CHECK(m.program->global("table", &at, &bytes) && bytes == 16, "");
  CHECK(!m.memory.free(at), "a module's variable was freed");
}

TEST(vectors_and_widths_in_memory) {
  Machine m;
  std::string body =
      "mul.wide.u32 %d4, %r0, 16; add.s64 %d5, %d1, %d4; ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d5]; ld.global.nc.v2.u64 {%d6, %d7}, [%d5]; cvt.u32.u64 %r5, %d7; ld.global.v4.u8 {%h1, %h2, %h3, %h4}, [%d5]; ld.global.s8 %r6, [%d5+1];\n"
      "add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3; add.u32 %r1, %r1, %r4; add.u32 %r1, %r1, %r5; cvt.u32.u16 %r7, %h1; add.u32 %r1, %r1, %r7; add.u32 %r1, %r1, %r6; ld.global.L1::no_allocate.L2::128B.v2.f32 {%f1, %f2}, [%d5]; mov.b32 %r8, %f2; add.u32 %r1, %r1, %r8;\n"
      "st.global.v2.u16 [%d2], {%h1, %h2}; ld.volatile.global.u32 %r9, [%d2]; add.u32 %r1, %r1, %r9; st.relaxed.gpu.global.u32 [%d2], %r1; ld.acquire.gpu.global.u32 %r1, [%d2]; st.global.u8 [%d2], %r1; st.global.cs.u32 [%d2], %r1; ret;";
  CHECK(m.load(entry(body)), m.error);
  std::vector<uint32_t> in;
  for (uint32_t i = 0; i < 128; i++) in.push_back(i * 0x01010101u);
  uint64_t from = m.upload(in), out = m.empty(128);
  CHECK(m.run("k", {1}, {32}, 0, {out, from}), softcuda::describe(m.fault));
  auto got = m.download<uint32_t>(out, 32);
  for (uint32_t l = 0; l < 32; l++) {
    uint32_t a = in[4 * l], sum = a + in[4 * l + 1] + in[4 * l + 2] + in[4 * l + 3] + in[4 * l + 2] + (a & 0xff) + static_cast<uint32_t>(static_cast<int8_t>(a >> 8)) + in[4 * l + 1] + pair(a & 0xff, a & 0xff);
    CHECK(got[l] == sum, std::to_string(l) + ": " + hex(got[l]) + " not " + hex(sum));
  }
}

TEST(atomics) {
  struct Case {
    const char* op;
    uint64_t start, operand;
    uint64_t want;  // after 32 lanes
    int bits;
  } cases[] = {
      {"add.u32", 5, 3, 101, 32}, {"add.s32", 5, 0xffffffff, 0xffffffe5, 32}, {"add.u64", 1ull << 40, 1, (1ull << 40) + 32, 64},
      {"min.s32", 5, 0xfffffff0, 0xfffffff0, 32}, {"min.u32", 5, 0xfffffff0, 5, 32}, {"max.s32", 5, 9, 9, 32}, {"max.u64", 5, 9, 9, 64},
      {"inc.u32", 0, 9, 2, 32}, {"dec.u32", 3, 9, 1, 32}, {"and.b32", 0xff, 0xf0, 0xf0, 32}, {"or.b32", 1, 0xf0, 0xf1, 32},
      {"xor.b32", 1, 0xf0, 1, 32}, {"exch.b32", 1, 7, 7, 32}, {"exch.b64", 1, 7, 7, 64}, {"add.f32", f32(1.f), f32(0.5f), f32(17.f), 32},
      {"add.f64", f64(1), f64(0.5), f64(17), 64}, {"add.noftz.f16x2", 0x3c003c00, 0x00003c00, 0x3c005020, 32}, {"add.noftz.bf16x2", 0x3f803f80, 0x3f800000, 0x42003f80 + 0x40000, 32},
  };
  for (bool shared : {false, true})
    for (auto& c : cases) {
      if (shared && c.bits == 64 && std::string(c.op).find("f64") != std::string::npos) continue;
      Machine m;
      std::string b = c.bits == 64 ? "%d8" : "%r8", r = c.bits == 64 ? "%d9" : "%r9", t = c.bits == 64 ? "b64" : "b32";
      std::string load = std::string("ld.global.") + t + " " + b + ", [%d1+8];\n";
      std::string body;
      if (shared)
        body = ".shared .align 8 .b64 s;\n" + load + "ld.global." + t + " " + r + ", [%d1]; setp.ne.u32 %p0, %r0, 0; @!%p0 st.shared." + t + " [s], " + r + "; bar.sync 0; atom.shared." + c.op + " " + r + ", [s], " + b +
               "; bar.sync 0; @%p0 ret; ld.shared." + t + " " + r + ", [s]; st.global." + t + " [%d0], " + r + "; ret;";
      else
        body = load + "red.global." + c.op + " [%d1], " + b + "; ret;";
      if (std::string(c.op).find("exch") != std::string::npos && !shared) body = load + "atom.global." + c.op + " " + r + ", [%d1], " + b + "; ret;";
      if (!m.load(entry(body))) {
        CHECK(false, std::string(c.op) + ": " + m.error);
        continue;
      }
      uint64_t in = m.upload(std::vector<uint64_t>{c.start, c.operand}), out = m.upload(std::vector<uint64_t>{0});
      CHECK(m.run("k", {1}, {32}, 0, {out, in}), softcuda::describe(m.fault));
      uint64_t got = m.download<uint64_t>(shared ? out : in, 1)[0];
      if (c.bits == 32) got &= 0xffffffff;
      CHECK(got == c.want, std::string(shared ? "shared " : "global ") + c.op + " gives " + hex(got) + ", not " + hex(c.want));
    }
  // cas: only one lane of many wins.
  Machine m;
  CHECK(m.load(entry("atom.global.cas.b32 %r1, [%d1], 0, %r0; st.global.u32 [%d2], %r1; ret;")), m.error);
  uint64_t in = m.upload(std::vector<uint32_t>{0}), out = m.empty(128);
  CHECK(m.run("k", {1}, {32}, 0, {out, in}), softcuda::describe(m.fault));
  CHECK(m.download<uint32_t>(in, 1)[0] == 1, "");  // lane 0 swaps 0 for 0, lane 1 wins
  // Many blocks on several threads count to the same number.
  CHECK(m.load(entry("red.global.add.u32 [%d1], 1; ret;")), m.error);
  in = m.upload(std::vector<uint32_t>{0});
  CHECK(m.run("k", {500}, {128}, 0, {out, in}, 4), softcuda::describe(m.fault));
  CHECK(m.download<uint32_t>(in, 1)[0] == 64000, "");
  CHECK(m.counters.atomics == 64000, "");
}

TEST(asynchronous_copies) {
  Machine m;
  auto run = [&](const std::string& body) {
    if (!m.load(entry(".shared .align 16 .b8 s[1024];\nmov.u32 %r1, s; shl.b32 %r2, %r0, 4; add.u32 %r2, %r1, %r2; mul.wide.u32 %d4, %r0, 16; add.s64 %d4, %d1, %d4;\n" + body))) {
      CHECK(false, m.error);
      return std::vector<uint32_t>(32);
    }
    std::vector<uint32_t> in;
    for (uint32_t i = 0; i < 256; i++) in.push_back(i + 1000);
    uint64_t from = m.upload(in), out = m.upload(std::vector<uint32_t>(32, 0));
    CHECK(m.run("k", {1}, {32}, 0, {out, from}), softcuda::describe(m.fault));
    return m.download<uint32_t>(out, 32);
  };
  auto got = run("cp.async.cg.shared.global [%r2], [%d4], 16; cp.async.commit_group; cp.async.wait_group 0; ld.shared.u32 %r3, [%r2+12]; st.global.u32 [%d2], %r3; ret;");
  for (uint32_t l = 0; l < 32; l++) CHECK(got[l] == 1003 + 4 * l, std::to_string(got[l]));
  // Bytes beyond the source's size are zero.
  got = run("mov.u32 %r5, 8; cp.async.ca.shared.global.L2::128B [%r2], [%d4], 16, %r5; cp.async.wait_all; ld.shared.v4.u32 {%r3, %r4, %r6, %r7}, [%r2]; add.u32 %r6, %r6, %r7; mad.lo.u32 %r6, %r6, 100, %r4; st.global.u32 [%d2], %r6; ret;");
  for (uint32_t l = 0; l < 32; l++) CHECK(got[l] == 1001 + 4 * l, std::to_string(got[l]));
  got = run("setp.lt.u32 %p1, %r0, 4; cp.async.ca.shared.global [%r2], [%d4], 4, %p1; cp.async.wait_all; ld.shared.u32 %r3, [%r2]; st.global.u32 [%d2], %r3; ret;");
  for (uint32_t l = 0; l < 32; l++) CHECK(got[l] == (l < 4 ? 0 : 1000 + 4 * l), std::to_string(got[l]));
  // wait_group 1 leaves the last group in flight: the old value is still there.
  got = run("st.shared.u32 [%r2], 7; st.shared.u32 [%r2+512], 7; cp.async.ca.shared.global [%r2], [%d4], 4; cp.async.commit_group; cp.async.ca.shared.global [%r2+512], [%d4], 4; cp.async.commit_group; cp.async.wait_group 1;\n"
            "ld.shared.u32 %r3, [%r2]; ld.shared.u32 %r4, [%r2+512]; mad.lo.u32 %r3, %r3, 10, %r4; st.global.u32 [%d2], %r3; cp.async.wait_all; ret;");
  for (uint32_t l = 0; l < 32; l++) CHECK(got[l] == (1000 + 4 * l) * 10 + 7, std::to_string(got[l]));
}

TEST(blocks_do_not_depend_on_threads) {
  Machine m;
  CHECK(m.load(entry("mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mad.lo.u32 %r3, %r1, %r2, %r0; mul.wide.u32 %d4, %r3, 4; add.s64 %d4, %d0, %d4; mov.u32 %r5, %ctaid.y; mov.u32 %r6, %nctaid.x; mad.lo.u32 %r3, %r5, 1000, %r3; setp.ne.u32 %p0, %r5, 0; @!%p0 st.global.u32 [%d4], %r3; ret;")), m.error);
  for (unsigned threads : {1u, 2u, 7u}) {
    uint64_t out = m.empty(40 * 96 * 4);
    CHECK(m.run("k", {40, 3, 2}, {96}, 0, {out, out}, threads), softcuda::describe(m.fault));
    auto got = m.download<uint32_t>(out, 40 * 96);
    CHECK(m.error.empty(), m.error);
    for (uint32_t i = 0; i < got.size(); i++) CHECK(got[i] == i, "");
  }
}

TEST(counters_count) {
  Machine m;
  CHECK(m.load(entry("ld.global.u32 %r1, [%d3]; st.global.u32 [%d2], %r1; ret;")), m.error);
  uint64_t in = m.upload(std::vector<uint32_t>(256, 1)), out = m.empty(1024);
  CHECK(m.run("k", {1}, {256}, 0, {out, in}), softcuda::describe(m.fault));
  auto& c = m.counters;
  CHECK(c.launches == 1 && c.instructions == 8 * 8, std::to_string(c.instructions));
  CHECK(c.global_load_sectors == 32 && c.global_store_sectors == 32 && c.global_load_bytes == 1024 && c.uncoalesced == 0, std::to_string(c.global_load_sectors));
  // A stride of 32 bytes takes a sector a lane.
  CHECK(m.load(entry("shl.b32 %r2, %r0, 5; cvt.u64.u32 %d4, %r2; add.s64 %d4, %d1, %d4; ld.global.u32 %r1, [%d4]; ret;")), m.error);
  CHECK(m.run("k", {1}, {32}, 0, {out, in}), softcuda::describe(m.fault));
  CHECK(c.global_load_sectors == 32 && c.global_load_bytes == 128 && c.uncoalesced == 28, std::to_string(c.uncoalesced));
  // Bank conflicts: a stride of two words costs one more pass, of 32 words 31 more.
  for (auto [stride, extra] : {std::pair{4, 0}, {8, 1}, {128, 31}, {0, 0}, {12, 0}}) {
    CHECK(m.load(entry(".shared .align 16 .b8 s[4096]; mov.u32 %r2, s; mul.lo.u32 %r3, %r0, " + std::to_string(stride) + "; add.u32 %r2, %r2, %r3; st.shared.u32 [%r2], 1; ret;")), m.error);
    CHECK(m.run("k", {1}, {32}, 0, {out, in}), softcuda::describe(m.fault));
    CHECK(c.bank_conflicts == static_cast<uint64_t>(extra) && c.shared_accesses == 1, std::to_string(stride) + ": " + std::to_string(c.bank_conflicts));
  }
}

TEST(instructions_that_only_hint) {
  Machine m;
  std::string body =
      ".pragma \"nounroll\";\n.reg .b64 %pol; createpolicy.fractional.L2::evict_last.b64 %pol, 1.0; ld.global.L2::cache_hint.u32 %r1, [%d3], %pol; st.global.L1::evict_last.u32 [%d2], %r1; prefetch.global.L2 [%d1]; prefetchu.L1 [%d1]; discard.global.L2 [%d0], 128; applypriority.global.L2::evict_normal [%d1], 128;\n"
      "membar.gl; membar.cta; fence.acq_rel.gpu; fence.sc.sys; nanosleep.u32 100; bar.warp.sync -1; mov.u32 %r2, %clock; mov.u64 %d4, %clock64; mov.u64 %d5, %globaltimer; setp.ge.u64 %p1, %d5, %d4; @!%p1 trap; mov.u32 %r3, %smid; mov.u32 %r4, %nsmid; mov.u32 %r5, %nwarpid; mov.u32 %r6, %warpid;\n"
      "mov.u32 %r7, %dynamic_smem_size; mov.u32 %r8, %total_smem_size; add.u32 %r7, %r7, %r8; mad.lo.u32 %r7, %r6, 1000, %r7; st.global.wb.u32 [%d2], %r7; ret;";
  CHECK(m.load(entry(body)), m.error);
  uint64_t in = m.upload(std::vector<uint32_t>(64, 5)), out = m.empty(256);
  CHECK(m.run("k", {1}, {64}, 32, {out, in}), softcuda::describe(m.fault));
  auto got = m.download<uint32_t>(out, 64);
  for (uint32_t l = 0; l < 64; l++) CHECK(got[l] == l / 32 * 1000 + 64, std::to_string(got[l]));
}

TEST(parameters_of_every_size) {
  Machine m;
  std::string ptx = std::string(kHeader) +
                    ".visible .entry k(.param .u64 out, .param .u8 a, .param .u16 b, .param .f32 c, .param .align 8 .b8 d[24], .param .u64 e) { .reg .b32 %r<9>; .reg .b64 %d<9>; .reg .b16 %h<4>;\n"
                    "ld.param.u64 %d0, [out]; ld.param.s8 %h1, [a]; cvt.s32.s16 %r1, %h1; ld.param.u16 %h2, [b]; cvt.u32.u16 %r2, %h2; ld.param.b32 %r3, [c]; ld.param.v2.u32 {%r4, %r5}, [d+8]; ld.param.u64 %d1, [e]; cvt.u32.u64 %r6, %d1;\n"
                    // by the address of a parameter
                    "mov.b64 %d2, d; ld.param.u32 %r7, [%d2+16]; add.u64 %d3, %d2, 20; ld.param.u32 %r8, [%d3];\n"
                    "st.global.v4.u32 [%d0], {%r1, %r2, %r3, %r4}; st.global.v4.u32 [%d0+16], {%r5, %r6, %r7, %r8}; ret; }";
  CHECK(m.load(ptx), m.error);
  auto* info = m.program->kernel("k");
  CHECK((info->param_offsets == std::vector<uint32_t>{0, 8, 10, 12, 16, 40} && info->param_sizes == std::vector<uint32_t>{8, 1, 2, 4, 24, 8} && info->param_bytes == 48), "");
  struct {
    uint64_t out;
    int8_t a;
    uint16_t b;
    uint32_t c, d[6];
    uint64_t e;
  } params = {m.empty(32), -3, 65535, 77, {1, 2, 3, 4, 5, 6}, 99};
  softcuda::Fault fault;
  CHECK(softcuda::run(*m.program, *info, {1}, {1}, 0, &params, m.memory, 1, nullptr, &fault), softcuda::describe(fault));
  CHECK((m.download<uint32_t>(params.out, 8) == std::vector<uint32_t>{0xfffffffd, 65535, 77, 3, 4, 99, 5, 6}), "");
  CHECK(!m.load(std::string(kHeader) + ".visible .entry k(.param .u32 a) { .reg .b64 %d; ld.param.u64 %d, [a]; ret; }") && m.error.find("outside the parameters") != std::string::npos, m.error);
}

TEST(generic_accesses_of_mixed_spaces) {
  // Of one instruction's lanes the even ones load from global memory, the odd ones from
  // shared; then the other way round, and stores and atomics too.
  for (int odd : {0, 1}) {
    Machine m;
    std::string body =
        ".shared .align 16 .b32 s[64];\nmov.u32 %r1, s; mad.lo.u32 %r2, %r0, 4, %r1; add.u32 %r3, %r0, 500; st.shared.u32 [%r2], %r3; bar.sync 0; cvt.u64.u32 %d4, %r2; cvta.shared.u64 %d4, %d4;\n"
        "and.b32 %r4, %r0, 1; setp.eq.u32 %p1, %r4, " + std::to_string(odd) + "; selp.b64 %d5, %d3, %d4, %p1; ld.u32 %r5, [%d5]; add.u32 %r5, %r5, 1; st.u32 [%d5], %r5; atom.add.u32 %r6, [%d5], 10; red.add.u32 [%d5], 100; ld.u32 %r7, [%d5]; add.u32 %r7, %r7, %r6; st.global.u32 [%d2], %r7; ret;";
    CHECK(m.load(entry(body)), m.error);
    std::vector<uint32_t> in;
    for (uint32_t i = 0; i < 32; i++) in.push_back(i + 1000);
    uint64_t from = m.upload(in), out = m.empty(128);
    CHECK(m.run("k", {1}, {32}, 0, {out, from}), softcuda::describe(m.fault));
    auto got = m.download<uint32_t>(out, 32);
    for (uint32_t l = 0; l < 32; l++) {
      uint32_t base = static_cast<int>(l & 1) == odd ? l + 1000 : l + 500;
      CHECK(got[l] == 2 * (base + 1) + 110, std::to_string(l) + ": " + std::to_string(got[l]));
    }
  }
}
