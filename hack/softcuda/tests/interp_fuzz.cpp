// Mutated PTX never crashes the parser or the interpreter: it parses or is refused,
// runs or faults. Seeded and bounded.
#include <algorithm>
#include <fstream>
#include <sstream>

#include "interp_test.h"

using namespace softtest;

namespace {

struct Random {
  uint64_t x = 0x9e3779b97f4a7c15u;
  uint64_t next() {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return x;
  }
  size_t below(size_t n) { return n ? next() % n : 0; }
};

const char* const kSeeds[] = {
    ".visible .entry k(.param .u64 out, .param .u64 in)\n.maxntid 64, 1, 1\n{\n.reg .pred %p<4>;\n.reg .b32 %r<9>;\n.reg .f32 %f<5>;\n.reg .b64 %rd<7>;\n.shared .align 4 .b8 s[256];\n"
    "ld.param.u64 %rd1, [out];\nld.param.u64 %rd2, [in+0];\ncvta.to.global.u64 %rd3, %rd1;\nmov.u32 %r1, %tid.x;\nsetp.ge.s32 %p1, %r1, 32;\n@%p1 bra $L__BB0_2;\nmul.wide.s32 %rd4, %r1, 4;\nadd.s64 %rd5, %rd2, %rd4;\n"
    "ld.global.nc.f32 %f1, [%rd5];\nfma.rn.f32 %f2, %f1, 0f40000000, %f1;\nshl.b32 %r2, %r1, 2;\nmov.u32 %r3, s;\nadd.s32 %r4, %r3, %r2;\nst.shared.f32 [%r4], %f2;\n$L__BB0_2:\nbar.sync 0;\n@%p1 bra $L__BB0_3;\n"
    "ld.shared.f32 %f3, [%r4];\nshfl.sync.bfly.b32 %r5|%p2, %r1, 1, 31, -1;\nadd.s64 %rd6, %rd3, %rd4;\nst.global.f32 [%rd6], %f3;\n$L__BB0_3:\nret;\n}\n",
    ".global .align 8 .u64 g = 5;\n.const .align 4 .b32 c[3] = {1, 0x2, -3};\n.func (.param .b32 r) f(.param .b32 a)\n{\n.reg .b32 %x<3>;\nld.param.u32 %x1, [a];\nmad.lo.s32 %x2, %x1, %x1, 3;\nst.param.b32 [r+0], %x2;\nret;\n}\n"
    ".visible .entry k(.param .u64 out, .param .u64 in)\n{\n.reg .b32 %r<9>;\n.reg .b64 %d<4>;\n.reg .b16 %h<4>;\n.local .align 4 .b8 l[16];\nld.param.u64 %d1, [out];\nmov.u32 %r1, %tid.x;\n{\n.param .b32 p0;\nst.param.b32 [p0+0], %r1;\n.param .b32 q;\ncall.uni (q), f, (p0);\nld.param.b32 %r2, [q+0];\n}\n"
    "mul.wide.u32 %d2, %r1, 4;\nadd.s64 %d2, %d1, %d2;\nst.local.u32 [l+4], %r2;\nld.local.u32 %r3, [l+4];\nmov.b32 {%h1, %h2}, %r3;\ncvt.u32.u16 %r4, %h1;\nts: .branchtargets A, B;\nand.b32 %r5, %r1, 1;\nbrx.idx %r5, ts;\nA: add.s32 %r4, %r4, 1;\nB: atom.global.add.u32 %r6, [g], 1;\nst.global.u32 [%d2], %r4;\nret;\n}\n",
};

const char* const kWords[] = {"0",   "-1",  "4294967295", ".u64", ".b32", ".f32", "%r1", "%p1", "%rd1", "{", "}", ";", "[", "]", "(", ")", ",", "@%p1 ", "@!%p1 ", "bra $L__BB0_2;", "ret;", "exit;", ".reg .b32 %q<999999999>;", "0x", "0f", "\"", "/*", "//", "$L__BB0_3:",
                              "18446744073709551616", ".shared", ".param", ".v4", "%tid.x", "_", "|", "!", ".align 3", "[999999999999]", ".entry", "call f;", "<5>", "bar.sync 0;", "1e400", "-", "+"};

std::string mutate(const std::string& seed, Random& r) {
  std::string s = seed;
  for (size_t n = 1 + r.below(3); n > 0; n--) {
    size_t at = r.below(s.size());
    switch (r.below(7)) {
      case 0: s.erase(at, 1 + r.below(8)); break;
      case 1: s[at] = static_cast<char>(32 + r.below(95)); break;
      case 2: s.insert(at, kWords[r.below(std::size(kWords))]); break;
      case 3: {  // a line elsewhere
        size_t end = s.find('\n', at);
        if (end == std::string::npos) break;
        std::string line = s.substr(at, end - at);
        s.insert(r.below(s.size()), line);
        break;
      }
      case 4: {  // a number changes
        size_t d = s.find_first_of("0123456789", at);
        if (d != std::string::npos) s[d] = static_cast<char>('0' + r.below(10));
        break;
      }
      case 5: s.resize(at); break;
      default: {  // a word becomes another word of the text
        size_t from = r.below(s.size()), b = s.find(' ', at), e = b == std::string::npos ? b : s.find_first_of(" ,;\n", b + 1);
        size_t wb = s.find(' ', from), we = wb == std::string::npos ? wb : s.find_first_of(" ,;\n", wb + 1);
        if (e == std::string::npos || we == std::string::npos) break;
        std::string word = s.substr(wb, we - wb);
        s.replace(b, e - b, word);
      }
    }
    if (s.empty()) s = " ";
  }
  return s;
}

}  // namespace

TEST(mutated_ptx_does_not_crash) {
  Random r;
  int parsed = 0, ran = 0, faulted = 0;
  Machine m;
  uint64_t in = m.upload(std::vector<float>(64, 1.5f)), out = m.empty(256);
  for (auto* seed : kSeeds) {
    CHECK(m.load(std::string(kHeader) + seed), m.error);
    CHECK(m.run("k", {1}, {64}, 64, {out, in}), softcuda::describe(m.fault));
  }
  for (int i = 0; i < 20000; i++) {
    std::string text = std::string(kHeader) + mutate(kSeeds[r.below(std::size(kSeeds))], r);
    if (!m.load(text)) {
      CHECK(!m.error.empty(), "refused without a reason");
      continue;
    }
    parsed++;
    if (!m.program->kernel("k")) continue;
    softcuda::step_limit(1 << 18);
    (m.run("k", {1}, {64}, 64, {out, in}) ? ran : faulted)++;
  }
  softcuda::step_limit(0);
  CHECK(parsed > 500 && ran > 200 && faulted > 50, "the mutations test too little: " + std::to_string(parsed) + " parsed, " + std::to_string(ran) + " ran, " + std::to_string(faulted) + " faulted");
}
