// See bench.sh.
#include <time.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "exec/exec.h"

using namespace softcuda;

namespace {

double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

Memory& memory() {
  static Memory m(256 << 20);
  return m;
}

double run_once(const Program& p, const char* kernel, Dim3 grid, Dim3 block, const std::vector<uint64_t>& args, Counters* c) {
  Fault fault;
  double start = cpu_seconds();
  if (!run(p, *p.kernel(kernel), grid, block, 0, args.data(), memory(), 1, c, &fault)) printf("%s\n", describe(fault).c_str());
  return cpu_seconds() - start;
}

// repeat gives the time of one instruction, run 64 times in a loop by 4 warps.
void repeat(const char* name, const std::string& instruction) {
  std::string body;
  for (int i = 0; i < 64; i++) body += instruction + "\n";
  std::string ptx =
      ".version 8.4\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 in) { .reg .b32 %r<32>; .reg .b64 %d<9>; .reg .f32 %f<9>; .reg .pred %p<4>; .reg .b16 %h<4>; .shared .align 16 .b8 s[16384];\n"
      "ld.param.u64 %d0, [in]; mov.u32 %r0, %tid.x; mad.wide.u32 %d1, %r0, 4, %d0; mad.wide.u32 %d2, %r0, 16, %d0; mov.u32 %r1, s; shl.b32 %r2, %r0, 2; add.u32 %r2, %r1, %r2; shl.b32 %r3, %r0, 4; add.u32 %r3, %r1, %r3; mov.u32 %r4, 0; setp.ne.u32 %p1, %r0, 3;\n"
      "st.shared.v4.u32 [%r3], {%r4, %r4, %r4, %r4}; bar.sync 0; mov.u32 %r9, 0;\nL:\n" +
      body + "add.u32 %r9, %r9, 1; setp.lt.u32 %p0, %r9, 200; @%p0 bra L; ret; }";
  std::string error;
  auto p = Program::parse(ptx, 90, memory(), &error);
  if (!p) {
    printf("%s: %s\n", name, error.c_str());
    return;
  }
  std::vector<uint32_t> zero(4096, 0);
  uint64_t in = memory().allocate(16384);
  memory().write(in, zero.data(), 16384, &error);
  double best = 1e9;
  for (int i = 0; i < 3; i++) best = std::min(best, run_once(*p, "k", {1}, {128}, {in}, nullptr));
  memory().free(in);
  printf("%-34s %7.1f ns\n", name, best * 1e9 / (64.0 * 200 * 4));
}

}  // namespace

int main() {
  repeat("add.u32", "add.u32 %r5, %r0, %r4;");
  repeat("add.u32, one lane off", "@%p1 add.u32 %r5, %r0, %r4;");
  repeat("mad.wide.u32", "mad.wide.u32 %d3, %r0, %r4, %d0;");
  repeat("fma.rn.f32", "fma.rn.f32 %f1, %f2, %f3, %f1;");
  repeat("ex2.approx.ftz.f32", "ex2.approx.ftz.f32 %f1, %f2;");
  repeat("setp.lt.s32", "setp.lt.s32 %p2, %r0, %r4;");
  repeat("cvt.rn.bf16x2.f32", "cvt.rn.bf16x2.f32 %r5, %f1, %f2;");
  repeat("ld.global.f32", "ld.global.f32 %f4, [%d1];");
  repeat("ld.global.v4.f32", "ld.global.v4.f32 {%f4, %f5, %f6, %f7}, [%d2];");
  repeat("ld.global.f32, one address", "ld.global.f32 %f4, [%d0];");
  repeat("ld.global.f32, one lane off", "@%p1 ld.global.f32 %f4, [%d1];");
  repeat("st.global.f32", "st.global.f32 [%d1], %f4;");
  repeat("ld.shared.f32", "ld.shared.f32 %f4, [%r2];");
  repeat("st.shared.v4.f32", "st.shared.v4.f32 [%r3], {%f4, %f5, %f6, %f7};");
  repeat("shfl.sync.bfly", "shfl.sync.bfly.b32 %r5, %r0, 1, 31, -1;");
  repeat("bar.sync", "bar.sync 0;");
  repeat("ldmatrix.x4", "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r5, %r6, %r7, %r8}, [%r3];");
  repeat("mma m16n8k16 bf16", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%f1, %f2, %f3, %f4}, {%r10, %r11, %r12, %r13}, {%r14, %r15}, {%f1, %f2, %f3, %f4};");
  repeat("mma m16n8k8 tf32", "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%f1, %f2, %f3, %f4}, {%r10, %r11, %r12, %r13}, {%r14, %r15}, {%f1, %f2, %f3, %f4};");
  repeat("mma m16n8k32 s8", "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%r5, %r6, %r7, %r8}, {%r10, %r11, %r12, %r13}, {%r14, %r15}, {%r5, %r6, %r7, %r8};");

  std::ifstream file(std::string(SOFTCUDA_TESTS) + "/ptx/gemm.ptx");
  std::stringstream text;
  text << file.rdbuf();
  std::string error;
  auto p = Program::parse(text.str(), 90, memory(), &error);
  if (!p) {
    printf("gemm.ptx: %s\n", error.c_str());
    return 1;
  }
  uint64_t m = 256, n = 256, k = 512;
  std::vector<uint16_t> ones(m * k, 0x3f80);
  uint64_t a = memory().allocate(m * k * 2), b = memory().allocate(n * k * 2), c = memory().allocate(m * n * 4);
  memory().write(a, ones.data(), m * k * 2, &error);
  memory().write(b, ones.data(), n * k * 2, &error);
  double best = 1e9;
  Counters counters;
  for (int i = 0; i < 3; i++) {
    counters = {};
    best = std::min(best, run_once(*p, "gemm_bf16", {static_cast<unsigned>(n / 64), static_cast<unsigned>(m / 64)}, {128}, {a, b, c, m, n, k}, &counters));
  }
  printf("product 256x256x512 in bf16: %.1f ms, %.0f ns an instruction, %.2f us for an mma and all around it\n", best * 1e3, best * 1e9 / static_cast<double>(counters.instructions),
         best * 1e6 / static_cast<double>(m * n * k / 2048));
  return 0;
}
