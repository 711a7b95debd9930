// What only Hopper has, as the kernels of hopper.cu use it: barriers in shared memory
// that copies arrive at, bulk copies, and products of a group of four warps.
#pragma once
#include "async.cuh"

// A barrier in shared memory ends a phase when so many have arrived, and so many bytes.
__device__ __forceinline__ void initBarrier(u32 barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void arrive(u32 barrier) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"); }
// expectBytes arrives, too.
__device__ __forceinline__ void expectBytes(u32 barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// arriveWithCopies arrives when all copies (copy16, copy4) that the thread has begun are done.
__device__ __forceinline__ void arriveWithCopies(u32 barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}
// waitFor waits for the end of a phase of this parity.
__device__ __forceinline__ void waitFor(u32 barrier, u32 parity) {
  asm volatile(
      "{\n"
      ".reg .pred over;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
      "@over bra done;\n"
      "bra again;\n"
      "done:\n"
      "}" ::"r"(barrier), "r"(parity) : "memory");
}
// showBarriers makes new barriers known to bulk copies.
__device__ __forceinline__ void showBarriers() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// copyBulk copies a multiple of 16 bytes, all of whose addresses are such, and arrives
// with them.
__device__ __forceinline__ void copyBulk(u32 to, const void *from, int bytes, u32 barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
               "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier)
               : "memory");
}

// Registers of a thread, from here on: those that copy give theirs to those that multiply.
template <int Registers> __device__ __forceinline__ void fewerRegisters() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers)); }
template <int Registers> __device__ __forceinline__ void moreRegisters() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers)); }

// describe64 is the descriptor of a matrix in shared memory whose rows are 64 bytes of K,
// swizzled: bits 4 and 5 of an address are xored with its bits 7 and 8. Eight rows lie
// behind each other, and eight more 512 bytes further.
__device__ __forceinline__ u64 describe64(u32 address) {
  constexpr u64 kSwizzle64 = 2ull << 62, kEight = (u64)(512 >> 4) << 32, kUnused = 1ull << 16;
  return kSwizzle64 | kEight | kUnused | ((address & 0x3ffff) >> 4);
}

#define R8(c, i) c(i), c(i + 1), c(i + 2), c(i + 3), c(i + 4), c(i + 5), c(i + 6), c(i + 7)
#define R64(c) R8(c, 0), R8(c, 8), R8(c, 16), R8(c, 24), R8(c, 32), R8(c, 40), R8(c, 48), R8(c, 56)
#define R128(c) R64(c), R8(c, 64), R8(c, 72), R8(c, 80), R8(c, 88), R8(c, 96), R8(c, 104), R8(c, 112), R8(c, 120)
#define SUM_OPERAND(i) "+f"(d[i])
#define SUMS_256                                                                                                                    \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"          \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63," \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,"     \
  "%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,"    \
  "%121,%122,%123,%124,%125,%126,%127}"

// multiplyGroup multiplies a [64, 32], of which each warp has 16 rows in registers as
// `multiply` wants them (16 columns, then the next 16), with b [256, 32] in shared memory,
// turned; and adds the products to d [64, 256]. Lane 4g+t of a warp has of
// d the rows g (d[4j], d[4j+1]) and g+8 (d[4j+2], d[4j+3]), columns 8j+2t and 8j+2t+1. It
// waits for the sums within: no register is ever touched that is still being written.
__device__ __forceinline__ void multiplyGroup(float (&d)[128], const u32 (&a)[8], u64 b) {
  asm volatile(
      "wgmma.fence.sync.aligned;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 " SUMS_256 ", {%128,%129,%130,%131}, %136, 1, 1, 1, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 " SUMS_256 ", {%132,%133,%134,%135}, %137, 1, 1, 1, 0;\n"
      "wgmma.commit_group.sync.aligned;\n"
      "wgmma.wait_group.sync.aligned 0;"
      : R128(SUM_OPERAND)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(a[4]), "r"(a[5]), "r"(a[6]), "r"(a[7]), "l"(b), "l"(b + (32 >> 4))
      : "memory");
}
