// Each check of the interpreter catches what it is for, names it, and lets the valid
// twin pass.
#include "interp_test.h"

using namespace softtest;

namespace {

struct Checked {
  const char* name;
  const char* bad;
  const char* good;
  const char* kind;
  int error;
  unsigned threads = 32;
  const char* mentions = "";
};

std::string entry(const std::string& body) {
  return std::string(kHeader) + ".extern .shared .align 16 .b8 dyn[];\n.const .align 4 .b32 table[2] = {1, 2};\n"
         ".visible .entry k(.param .u64 out, .param .u64 in, .param .u64 n) {\n.reg .b32 %r<32>; .reg .b64 %d<16>; .reg .b16 %h<8>; .reg .f32 %f<8>; .reg .pred %p<8>; .shared .align 16 .b8 s[1024]; .local .align 8 .b8 loc[32];\n"
         "ld.param.u64 %d0, [out]; ld.param.u64 %d1, [in]; mov.u32 %r0, %tid.x; mad.wide.u32 %d2, %r0, 4, %d0; mad.wide.u32 %d3, %r0, 4, %d1; mov.u32 %r31, s; shl.b32 %r30, %r0, 2; add.u32 %r29, %r31, %r30;\n" +
         body + "\nret;\n}\n";
}

// Of 400 bytes, all of `in` and none of `out` are written before.
bool run(Machine& m, const char* body, unsigned threads) {
  if (!m.load(entry(body))) {
    fail(__FILE__, __LINE__, m.error + " in " + body);
    return true;
  }
  uint64_t in = m.upload(std::vector<uint32_t>(100, 5)), out = m.empty(400);
  return m.run("k", {2, 1, 1}, {threads}, 64, {out, in});
}

const Checked kChecks[] = {
    {"store past the end", "st.global.u32 [%d2+300], %r0;", "st.global.u32 [%d2+272], %r0;", "out-of-bounds", 700, 32, "past the end of allocation"},
    {"load past the end", "ld.global.u32 %r1, [%d3+300];", "ld.global.u32 %r1, [%d3+272];", "out-of-bounds", 700},
    {"load before the start", "ld.global.u32 %r1, [%d3-4];", "ld.global.u32 %r1, [%d3];", "out-of-bounds", 700},
    {"load of one lane past the end", "setp.eq.u32 %p0, %r0, 31; selp.b64 %d4, 280, 0, %p0; add.s64 %d4, %d3, %d4; ld.global.u32 %r1, [%d4];", "setp.eq.u32 %p0, %r0, 31; selp.b64 %d4, 272, 0, %p0; add.s64 %d4, %d3, %d4; ld.global.u32 %r1, [%d4];", "out-of-bounds", 700},
    {"vector reaches past the end", "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d1+400];", "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d1+384];", "out-of-bounds", 700},
    {"null", "mov.u64 %d4, 0; ld.global.u32 %r1, [%d4];", "ld.global.u32 %r1, [%d1];", "out-of-bounds", 700, 32, "in no allocation"},
    {"generic wild address", "mov.u64 %d4, 4660; ld.u32 %r1, [%d4];", "ld.u32 %r1, [%d1];", "out-of-bounds", 700},
    {"misaligned global load", "ld.global.u32 %r1, [%d3+2];", "ld.global.u16 %h1, [%d3+2];", "misaligned", 716},
    {"misaligned vector", "ld.global.v2.u32 {%r1, %r2}, [%d1+4];", "ld.global.v2.u32 {%r1, %r2}, [%d1+8];", "misaligned", 716},
    {"misaligned atomic", "atom.global.add.u32 %r1, [%d1+2], 1;", "atom.global.add.u32 %r1, [%d1+4], 1;", "misaligned", 716},
    {"load of what nothing wrote", "ld.global.u32 %r1, [%d2];", "st.global.u32 [%d2], %r0; ld.global.u32 %r1, [%d2];", "uninitialised", 719, 32, "nothing wrote byte"},
    {"load of half written word", "st.global.u16 [%d0], %h0; ld.global.u32 %r1, [%d0];", "st.global.u16 [%d0], %h0; st.global.u16 [%d0+2], %h0; ld.global.u32 %r1, [%d0];", "uninitialised", 719},
    {"atomic on what nothing wrote", "red.global.add.u32 [%d0], 1;", "st.global.u32 [%d0], 0; red.global.add.u32 [%d0], 1;", "uninitialised", 719},
    {"store to constants", "mov.u64 %d4, table; st.global.u32 [%d4], 1;", "mov.u64 %d4, table; ld.const.u32 %r1, [%d4];", "read-only", 700},
    {"shared past the end", "st.shared.u32 [%r29+1000], %r0;", "st.shared.u32 [%r29+896], %r0;", "out-of-bounds", 700},
    {"dynamic shared past the end", "st.shared.u32 [dyn+64], 1;", "st.shared.u32 [dyn+60], 1;", "out-of-bounds", 700},
    {"misaligned shared", "st.shared.u32 [%r29+2], %r0;", "st.shared.u32 [%r29+4], %r0;", "misaligned", 716},
    {"shared load of what nothing wrote", "ld.shared.u32 %r1, [%r29];", "st.shared.u32 [%r29], 1; ld.shared.u32 %r1, [%r29];", "uninitialised", 719},
    {"local past the end", "mov.u64 %d4, loc; ld.local.u32 %r1, [%d4+32];", "mov.u64 %d4, loc; ld.local.u32 %r1, [%d4+28];", "out-of-bounds", 700},
    // races
    {"another warp's word without a barrier", "st.shared.u32 [%r29], %r0; xor.b32 %r1, %r0, 32; shl.b32 %r1, %r1, 2; add.u32 %r1, %r31, %r1; ld.shared.u32 %r2, [%r1];",
     "st.shared.u32 [%r29], %r0; bar.sync 0; xor.b32 %r1, %r0, 32; shl.b32 %r1, %r1, 2; add.u32 %r1, %r31, %r1; ld.shared.u32 %r2, [%r1];", "", 0, 64},
    {"read then write by another warp", "st.shared.u32 [%r29], %r0; bar.sync 0; xor.b32 %r1, %r0, 32; shl.b32 %r1, %r1, 2; add.u32 %r1, %r31, %r1; ld.shared.u32 %r2, [%r1]; st.shared.u32 [%r29], %r2;",
     "st.shared.u32 [%r29], %r0; bar.sync 0; xor.b32 %r1, %r0, 32; shl.b32 %r1, %r1, 2; add.u32 %r1, %r31, %r1; ld.shared.u32 %r2, [%r1]; bar.sync 0; st.shared.u32 [%r29], %r2;", "race", 719, 64, "no barrier between"},
    {"another lane's word without a barrier", "st.shared.u32 [%r29], %r0; xor.b32 %r1, %r0, 1; shl.b32 %r1, %r1, 2; add.u32 %r1, %r31, %r1; ld.shared.u32 %r2, [%r1];",
     "st.shared.u32 [%r29], %r0; bar.warp.sync -1; xor.b32 %r1, %r0, 1; shl.b32 %r1, %r1, 2; add.u32 %r1, %r31, %r1; ld.shared.u32 %r2, [%r1];", "race", 719},
    {"a warp's barrier does not order another warp", "setp.ge.u32 %p0, %r0, 32; @!%p0 st.shared.u32 [%r29], %r0; bar.warp.sync -1; @%p0 ld.shared.u32 %r1, [%r29-128];",
     "setp.ge.u32 %p0, %r0, 32; @!%p0 st.shared.u32 [%r29], %r0; bar.sync 0; @%p0 ld.shared.u32 %r1, [%r29-128];", "race", 719, 64},
    {"two warps write one word", "st.shared.u32 [s], %r0;", "setp.eq.u32 %p0, %r0, 0; @%p0 st.shared.u32 [s], %r0;", "race", 719, 64},
    {"lanes write different values to one word", "st.shared.u32 [s], %r0;", "st.shared.u32 [s], 7;", "race", 719},
    {"lanes write different 16 bytes to one place", "st.shared.v4.u32 [s], {%r0, %r1, %r2, %r3};", "st.shared.v4.u32 [s], {%r1, %r1, %r2, %r3};", "race", 719},
    {"two warps write 16 bytes to one place", "and.b32 %r4, %r0, 31; shl.b32 %r4, %r4, 4; add.u32 %r4, %r31, %r4; st.shared.v4.u32 [%r4], {%r0, %r1, %r2, %r3};",
     "shl.b32 %r4, %r0, 4; and.b32 %r4, %r4, 1023; add.u32 %r4, %r31, %r4; st.shared.v4.u32 [%r4], {%r0, %r1, %r2, %r3};", "race", 719, 64},
    {"a named barrier orders its warps only", "setp.ge.u32 %p0, %r0, 64; @%p0 bra R; st.shared.u32 [%r29], %r0; bar.sync 1, 64; bra E; R: ld.shared.u32 %r1, [%r29-256]; E:",
     "setp.ge.u32 %p0, %r0, 64; @%p0 bra R; st.shared.u32 [%r29], %r0; bar.sync 1, 96; bra E; R: bar.sync 1, 96; ld.shared.u32 %r1, [%r29-256]; E:", "race", 719, 96},
    {"plain write beside an atomic one", "st.shared.u32 [%r29], 0; bar.sync 0; atom.shared.add.u32 %r1, [s], 1; setp.eq.u32 %p0, %r0, 40; @%p0 st.shared.u32 [s], 9;",
     "st.shared.u32 [%r29], 0; bar.sync 0; atom.shared.add.u32 %r1, [s], 1; bar.sync 0; setp.eq.u32 %p0, %r0, 40; @%p0 st.shared.u32 [s], 9;", "race", 719, 64},
    {"asynchronous write over what others still read",
     "st.shared.u32 [%r29], %r0; bar.sync 0; xor.b32 %r1, %r0, 32; shl.b32 %r1, %r1, 2; add.u32 %r1, %r31, %r1; ld.shared.u32 %r2, [%r1]; cp.async.ca.shared.global [%r29], [%d3], 4; cp.async.wait_all;",
     "st.shared.u32 [%r29], %r0; bar.sync 0; xor.b32 %r1, %r0, 32; shl.b32 %r1, %r1, 2; add.u32 %r1, %r31, %r1; ld.shared.u32 %r2, [%r1]; bar.sync 0; cp.async.ca.shared.global [%r29], [%d3], 4; cp.async.wait_all;", "race", 719, 64},
    {"asynchronous copy not waited for", "cp.async.ca.shared.global [%r29], [%d3], 4; cp.async.commit_group; cp.async.wait_group 1; ld.shared.u32 %r1, [%r29];",
     "cp.async.ca.shared.global [%r29], [%d3], 4; cp.async.commit_group; cp.async.wait_group 0; ld.shared.u32 %r1, [%r29];", "uninitialised", 719},
    {"asynchronous copy from past the end", "cp.async.ca.shared.global [%r29], [%d3+300], 4; cp.async.wait_all;", "cp.async.ca.shared.global [%r29], [%d3+272], 4; cp.async.wait_all;", "out-of-bounds", 700},
    {"misaligned asynchronous copy", "cp.async.ca.shared.global [%r31], [%d1+4], 8; cp.async.wait_all;", "cp.async.ca.shared.global [%r31], [%d1+8], 8; cp.async.wait_all;", "misaligned", 716},
    {"ldmatrix of what nothing wrote", "and.b32 %r1, %r0, 7; shl.b32 %r1, %r1, 4; add.u32 %r1, %r31, %r1; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1];",
     "st.shared.u32 [%r29], 0; bar.warp.sync -1; and.b32 %r1, %r0, 7; shl.b32 %r1, %r1, 4; add.u32 %r1, %r31, %r1; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1];", "uninitialised", 719},
    {"ldmatrix of what another lane wrote just now", "st.shared.u32 [%r29], 0; and.b32 %r1, %r0, 7; shl.b32 %r1, %r1, 4; add.u32 %r1, %r31, %r1; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1];",
     "st.shared.u32 [%r29], 0; bar.sync 0; and.b32 %r1, %r0, 7; shl.b32 %r1, %r1, 4; add.u32 %r1, %r31, %r1; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1];", "race", 719},
    // synchronisation
    {"barrier in one branch", "setp.lt.u32 %p0, %r0, 5; @%p0 bra L; bar.sync 0; L:", "setp.lt.u32 %p0, %r0, 5; @%p0 bra L; L: bar.sync 0;", "barrier", 719, 64, "diverged"},
    {"barrier of one warp", "setp.lt.u32 %p0, %r0, 32; @%p0 bra L; bar.sync 0; L: mov.u32 %r1, 0;", "bar.sync 0;", "barrier", 719, 64},
    {"barrier after an exit of a warp", "setp.lt.u32 %p0, %r0, 32; @%p0 ret; bar.sync 0;", "bar.sync 0; setp.lt.u32 %p0, %r0, 32; @%p0 ret;", "barrier", 719, 64},
    {"barrier after an exit of lanes", "setp.lt.u32 %p0, %r0, 3; @%p0 ret; bar.sync 0;", "setp.lt.u32 %p0, %r0, 3; bar.sync 0; @%p0 ret;", "barrier", 719, 64, "exited"},
    {"different barriers", "setp.lt.u32 %p0, %r0, 32; @%p0 bra L; bar.sync 1; bra E; L: bar.sync 2; E:", "bar.sync 1; bar.sync 2;", "barrier", 719, 64},
    {"shuffle names a diverged lane", "setp.lt.u32 %p0, %r0, 5; @%p0 bra L; shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1; L:", "setp.lt.u32 %p0, %r0, 5; shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;", "warp-sync", 719, 32, "diverged"},
    {"shuffle names an exited lane", "setp.lt.u32 %p0, %r0, 5; @%p0 ret; shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1;", "shfl.sync.bfly.b32 %r1, %r0, 1, 31, -1; setp.lt.u32 %p0, %r0, 5; @%p0 ret;", "warp-sync", 719, 32, "exited"},
    {"shuffle names lanes that do not exist", "shfl.sync.down.b32 %r1, %r0, 1, 31, -1;", "shfl.sync.down.b32 %r1, %r0, 0, 31, 0xff;", "warp-sync", 719, 8, "do not exist"},
    {"shuffle from a lane outside its mask", "setp.lt.u32 %p0, %r0, 16; @%p0 shfl.sync.idx.b32 %r1, %r0, 20, 31, 0xffff;", "setp.lt.u32 %p0, %r0, 16; @%p0 shfl.sync.idx.b32 %r1, %r0, 2, 31, 0xffff;", "warp-sync", 719},
    {"vote with a mask that does not name the lane", "setp.eq.u32 %p0, %r0, 0; vote.sync.ballot.b32 %r1, %p0, 0xff;", "setp.eq.u32 %p0, %r0, 0; vote.sync.ballot.b32 %r1, %p0, -1;", "warp-sync", 719},
    {"mma by a part of a warp", "setp.lt.u32 %p0, %r0, 5; @%p0 mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%r1,%r2}, {%r3}, {%f0,%f1,%f2,%f3};",
     "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%f0,%f1,%f2,%f3}, {%r1,%r2}, {%r3}, {%f0,%f1,%f2,%f3};", "warp-sync", 719},
    {"trap", "trap;", "", "trap", 719},
};

}  // namespace

TEST(each_check_catches_and_lets_pass) {
  for (auto& c : kChecks) {
    Machine good;
    CHECK(run(good, c.good, c.threads), std::string(c.name) + ": the valid twin faults: " + softcuda::describe(good.fault));
    Machine bad;
    if (run(bad, c.bad, c.threads)) {
      CHECK(false, std::string(c.name) + ": not caught");
      continue;
    }
    auto& f = bad.fault;
    if (*c.kind) CHECK(f.kind == c.kind, std::string(c.name) + " is told as " + softcuda::describe(f));
    if (c.error) CHECK(f.error == c.error, std::string(c.name) + ": error " + std::to_string(f.error));
    CHECK(f.kernel == "k" && f.line == 9, std::string(c.name) + ": " + softcuda::describe(f));
    CHECK(f.block[0] == 0 && f.block[1] == 0 && f.thread[0] < c.threads, softcuda::describe(f));
    CHECK(f.text.find(c.mentions) != std::string::npos, std::string(c.name) + ": " + f.text);
  }
}

TEST(a_fault_names_thread_and_address) {
  Machine m;
  // Thread (5, 4) of block (1, 0) alone stores far outside.
  CHECK(m.load(entry("mov.u32 %r2, %tid.y; mad.lo.u32 %r2, %r2, 8, %r0; setp.ne.u32 %p0, %r2, 37; mov.u32 %r1, %ctaid.x; setp.ne.or.u32 %p0, %r1, 1, %p0; @%p0 ret;\nst.global.u32 [%d2+4096], %r0;")), m.error);
  uint64_t in = m.upload(std::vector<uint32_t>(100, 5)), out = m.empty(400);
  CHECK(!m.run("k", {3}, {8, 8}, 64, {out, in}), "not caught");
  auto& f = m.fault;
  CHECK(f.block[0] == 1 && f.thread[0] == 5 && f.thread[1] == 4 && f.thread[2] == 0 && f.line == 10 && f.address == out + 4096 + 20, softcuda::describe(f));
  CHECK(softcuda::describe(f).find("out-of-bounds in kernel k, PTX line 10, block (1,0,0), thread (5,4,0): store") == 0, softcuda::describe(f));
}

TEST(assertions_and_printf_are_told) {
  Machine m;
  std::string ptx = std::string(kHeader) +
                    ".extern .func __assertfail (.param .b64 a, .param .b64 b, .param .b32 c, .param .b64 d, .param .b64 e) .noreturn;\n.extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 v);\n"
                    ".global .align 1 .b8 text[6] = {120, 32, 62, 32, 49, 0};\n.global .align 1 .b8 file[5] = {97, 46, 99, 117, 0};\n"
                    ".visible .entry a() { .reg .b64 %d<4>; mov.u64 %d1, text; mov.u64 %d2, file; { .param .b64 p0; st.param.b64 [p0+0], %d1; .param .b64 p1; st.param.b64 [p1+0], %d2; .param .b32 p2; st.param.b32 [p2+0], 17; .param .b64 p3; st.param.b64 [p3+0], %d2; .param .b64 p4; st.param.b64 [p4+0], 1;\n"
                    "call.uni __assertfail, (p0, p1, p2, p3, p4); } ret; }\n"
                    ".visible .entry p() { .reg .b32 %r<2>; { .param .b64 p0; st.param.b64 [p0+0], 0; .param .b64 p1; st.param.b64 [p1+0], 0; .param .b32 q; call.uni (q), vprintf, (p0, p1); ld.param.b32 %r1, [q+0]; } ret; }\n";
  CHECK(m.load(ptx), m.error);
  CHECK(!m.run("a", {1}, {32}, 0, {}) && m.fault.kind == "assert" && m.fault.error == 710, softcuda::describe(m.fault));
  CHECK(m.fault.text.find("assertion \"x > 1\" failed at a.cu:17 [call.uni __assertfail") == 0, m.fault.text);
  CHECK(!m.run("p", {1}, {32}, 0, {}) && m.fault.kind == "unsupported", softcuda::describe(m.fault));
}

TEST(use_after_free) {
  Machine m;
  CHECK(m.load(entry("ld.global.u32 %r1, [%d3];")), m.error);
  uint64_t in = m.upload(std::vector<uint32_t>(100, 5)), out = m.empty(400);
  CHECK(m.run("k", {1}, {32}, 64, {out, in}), softcuda::describe(m.fault));
  CHECK(m.memory.free(in), "");
  uint64_t other = m.upload(std::vector<uint32_t>(100, 5));
  CHECK(other != in, "freed memory is used again at once");
  CHECK(!m.run("k", {1}, {32}, 64, {out, in}), "not caught");
  CHECK(m.fault.kind == "use-after-free" && m.fault.address == in && m.fault.error == 700, softcuda::describe(m.fault));
  CHECK(!m.memory.free(in), "freed twice");
  CHECK(!m.memory.free(other + 4), "freed in the middle");
}

TEST(the_first_faulting_block_is_told) {
  Machine m;
  CHECK(m.load(entry("mov.u32 %r1, %ctaid.x; setp.lt.u32 %p0, %r1, 11; @%p0 ret; st.global.u32 [%d2+4096], %r0;")), m.error);
  uint64_t in = m.upload(std::vector<uint32_t>(100, 5)), out = m.empty(400);
  for (unsigned threads : {1u, 2u, 8u}) {
    CHECK(!m.run("k", {64}, {32}, 64, {out, in}, threads), "not caught");
    CHECK(m.fault.block[0] == 11 && m.fault.thread[0] == 0, softcuda::describe(m.fault));
  }
}

TEST(an_endless_loop_ends) {
  Machine m;
  // A spin on a flag that the other warp sets makes progress.
  CHECK(m.load(entry("st.shared.u32 [%r29], 0; bar.sync 0; setp.lt.u32 %p0, %r0, 32; @%p0 bra WAIT; atom.shared.exch.b32 %r1, [s], 1; ret; WAIT: atom.shared.or.b32 %r1, [s], 0; setp.eq.u32 %p1, %r1, 0; @%p1 bra WAIT;")), m.error);
  uint64_t in = m.upload(std::vector<uint32_t>(100, 5)), out = m.empty(400);
  CHECK(m.run("k", {1}, {64}, 64, {out, in}), softcuda::describe(m.fault));
}

TEST(memory_of_the_host) {
  softcuda::Memory m(1 << 20);
  std::string why;
  uint64_t a = m.allocate(100), b = m.allocate(100);
  CHECK(a % 256 == 0 && b % 256 == 0 && b >= a + 100 + 128, "");
  CHECK(m.used() == 512, std::to_string(m.used()));
  char bytes[200] = {1, 2, 3};
  CHECK(!m.write(a, bytes, 101, &why) && why.find("past the end") != std::string::npos, why);
  CHECK(m.write(a + 3, bytes, 50, &why), why);
  why.clear();
  CHECK(m.read(bytes, a + 3, 50, &why) && why.empty(), why);
  CHECK(m.read(bytes, a, 100, &why) && why.find("nothing wrote") != std::string::npos, why);
  // Copies take what is written and what is not with them.
  CHECK(m.copy(b, a, 100, &why), why);
  for (int i = 0; i < 100; i++) CHECK(m.written(b + static_cast<uint64_t>(i), 1) == (i >= 3 && i < 53), std::to_string(i));
  uint32_t v = 7;
  CHECK(m.fill(b, &v, 4, 25, &why), why);
  why.clear();
  CHECK(m.read(bytes, b, 100, &why) && why.empty() && bytes[4] == 7 && bytes[5] == 0, why);
  CHECK(!m.fill(b, &v, 4, 26, &why), "");
  CHECK(!m.fill(b, &v, 4, SIZE_MAX / 2, &why), "");
  CHECK(m.allocate(2 << 20) == 0 && m.allocate(0) == 0, "");
  uint64_t base;
  size_t n;
  CHECK(m.lookup(a + 99, &base, &n) && base == a && n == 100 && !m.lookup(a + 100, nullptr, nullptr), "");
  // Many rounds: memory comes back, and is unwritten again.
  CHECK(m.free(a) && m.free(b), "");
  for (int i = 0; i < 2000; i++) {
    uint64_t x = m.allocate(700000);
    CHECK(x != 0, "out of memory in round " + std::to_string(i));
    CHECK(!m.written(x, 1) && !m.written(x + 350000, 1), "fresh memory counts as written");
    CHECK(m.write(x, bytes, 200, &why), why);
    CHECK(m.free(x), "");
  }
  CHECK(m.used() == 0 && m.live().empty(), "");
}

TEST(launches_are_checked) {
  Machine m;
  CHECK(m.load(std::string(kHeader) + ".visible .entry k() .maxntid 64 { ret; }\n.visible .entry q() .reqntid 8, 4 { ret; }"), m.error);
  CHECK(m.run("k", {1}, {64}, 0, {}), "");
  CHECK(!m.run("k", {1}, {65}, 0, {}) && m.fault.kind == "launch", "");
  CHECK(!m.run("k", {0}, {32}, 0, {}), "");
  CHECK(m.run("q", {1}, {8, 4}, 0, {}) && !m.run("q", {1}, {32}, 0, {}), "");
  CHECK(m.program->kernel("k")->max_threads == 64 && m.program->kernel("none") == nullptr, "");
}

TEST(errors_name_line_and_thing) {
  struct {
    const char* body;
    const char* mentions;
  } cases[] = {
      {"frob.u32 %r1, %r2;", "PTX line 9: unknown instruction \"frob\""},
      {"add.wat.u32 %r1, %r2, %r3;", "unknown modifier \".wat\" of \"add\""},
      {"add.u32 %r1, %r2;", "takes 3 operands"},
      {"add.u32 %r1, %d2, %r3;", "\"%d2\" is .b64 where .u32 is wanted"},
      {"add.u64 %d1, %r2, %d3;", "\"%r2\" is .b32"},
      {"mov.u32 %r1, %nosuch;", "unknown register \"%nosuch\""},
      {"bra NOWHERE;", "no label \"NOWHERE\""},
      {"ld.global.u32 %r1, [%q9];", "\"%q9\" is not declared"},
      {"setp.lt.u32 %r1, %r2, %r3;", "must go to a predicate"},
      {"wgmma.fence.aligned;", "wgmma wants"},
      {"cp.async.bulk.shared.global [%r1], [%d1], 16, [%r2];", "bulk"},
      {"call nosuch;", "no function \"nosuch\""},
      {"mma.sync.aligned.m8n8k128.row.col.s32.b1.b1.s32.xor.popc {%r1,%r2}, {%r3}, {%r4}, {%r5,%r6};", "shape of mma"},
      {"cvt.f16.f32 %h1, %f1;", "wants its rounding"},
      {"cvt.s32.f32 %r1, %f1;", "wants .rni"},
      {"st.const.u32 [table], %r1;", ".const"},
      {"ld.shared.u32 %r1, [table];", "\"table\" lies in .const memory, not .shared"},
      {"mov.u32 %r1, 1.5; } {", ""},
  };
  for (auto& c : cases) {
    Machine m;
    CHECK(!m.load(entry(c.body)), std::string("accepted: ") + c.body);
    CHECK(m.error.find(c.mentions) != std::string::npos, std::string(c.body) + ": " + m.error);
  }
  Machine m;
  CHECK(!m.load(".version 8.5\n.target sm_80\n.address_size 64\n") && m.error.find(".version 8.5 is newer") != std::string::npos, m.error);
  CHECK(!m.load(".version 8.4\n.target sm_90a\n.address_size 64\n", 80) && m.error.find("newer than the device") != std::string::npos, m.error);
  CHECK(!m.load("hello") && m.error.find(".version") != std::string::npos, m.error);
  CHECK(!m.load("") && !m.load(std::string(100, '\xff')), "");
  CHECK(m.load(std::string(kHeader) + std::string(1, '\0')), m.error);
}
