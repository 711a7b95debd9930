// Asynchronous copies to shared memory, and products of the tensor cores.
#pragma once
#include "common.cuh"

__device__ __forceinline__ u32 sharedAddress(const void *p) { return (u32)__cvta_generic_to_shared(p); }

// copy16 starts a copy of 16 bytes from global memory; with take false it writes
// zeros and reads nothing. Both addresses are multiples of 16.
__device__ __forceinline__ void copy16(u32 to, const void *from, bool take) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(take ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copy8(u32 to, const void *from, bool take) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(take ? 8 : 0) : "memory");
}
__device__ __forceinline__ void copy4(u32 to, const void *from, bool take) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)), "r"(take ? 4 : 0) : "memory");
}
__device__ __forceinline__ void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending> __device__ __forceinline__ void waitCopies() { asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory"); }

// multiply adds the product of a [16, 16] and b [16, 8] to d [16, 8]. Lane 4g+t has
// of a the rows g (a0, a2) and g+8 (a1, a3), columns 2t, 2t+1 (a0, a1) and 8 on (a2,
// a3); of b the column g, rows likewise; of d the rows g (d0, d1) and g+8 (d2, d3),
// columns 2t and 2t+1.
__device__ __forceinline__ void multiply(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// multiply8 returns the product of a [16, 32] and b [32, 8] of int8, in the same
// layout with 4t…4t+3 for 2t, 2t+1 and 16 on for 8 on.
__device__ __forceinline__ void multiply8(int (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1), "r"(0));
}

// loadTransposed reads four matrices of 8×8 16-bit elements, each transposed; lane i
// gives the address of row i%8 of matrix i/8.
__device__ __forceinline__ void loadTransposed(u32 (&d)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void loadMatrices(u32 (&d)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(address)
               : "memory");
}
