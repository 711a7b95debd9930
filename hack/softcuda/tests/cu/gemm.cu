// Compiled to ptx/gemm.ptx by regenerate.sh; run by interp_compiled.cpp: a product in
// tiles with cp.async, ldmatrix and mma.sync, as the kernels of the project have it.
#include <cuda_bf16.h>
#include <stdint.h>

// C[M,N] = A[M,K] * B[N,K]^T, tile 64x64x32, 4 warps
__device__ __forceinline__ void cp16(void* s, const void* g) {
  uint32_t a = (uint32_t)__cvta_generic_to_shared(s);
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(a), "l"(g));
}
__device__ __forceinline__ void ldm4(uint32_t* r, const void* s) {
  uint32_t a = (uint32_t)__cvta_generic_to_shared(s);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(a));
}
extern "C" __global__ void __launch_bounds__(128) gemm_bf16(const __nv_bfloat16* A, const __nv_bfloat16* B, float* C, long long M, long long N, long long K) {
  __shared__ __align__(16) __nv_bfloat16 sA[2][64][40], sB[2][64][40];
  int t = threadIdx.x, w = t / 32, l = t % 32;
  const __nv_bfloat16* ga = A + (long long)blockIdx.y * 64 * K;
  const __nv_bfloat16* gb = B + (long long)blockIdx.x * 64 * K;
  float c[4][2][4] = {};  // warp tile 32x32: 2x4 mma
  auto load = [&](int st, int k0) {
    for (int i = t; i < 64 * 4; i += 128) {
      cp16(&sA[st][i / 4][(i % 4) * 8], ga + (i / 4) * K + k0 + (i % 4) * 8);
      cp16(&sB[st][i / 4][(i % 4) * 8], gb + (i / 4) * K + k0 + (i % 4) * 8);
    }
    asm volatile("cp.async.commit_group;\n");
  };
  load(0, 0);
  int wm = (w & 1) * 32, wn = (w >> 1) * 32;
  for (int k0 = 0, st = 0; k0 < K; k0 += 32, st ^= 1) {
    if (k0 + 32 < K) { load(st ^ 1, k0 + 32); asm volatile("cp.async.wait_group 1;\n"); }
    else asm volatile("cp.async.wait_group 0;\n");
    __syncthreads();
    for (int kk = 0; kk < 32; kk += 16) {
      uint32_t a[2][4], b[2][4];
      for (int i = 0; i < 2; i++) ldm4(a[i], &sA[st][wm + i * 16 + (l % 16)][kk + (l / 16) * 8]);
      for (int j = 0; j < 2; j++) ldm4(b[j], &sB[st][wn + j * 16 + (l % 8) + (l / 16) * 8][kk + ((l / 8) % 2) * 8]);
      for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
          asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
                       : "+f"(c[j][i][0]), "+f"(c[j][i][1]), "+f"(c[j][i][2]), "+f"(c[j][i][3])
                       : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j / 2][(j % 2) * 2]), "r"(b[j / 2][(j % 2) * 2 + 1]));
    }
    __syncthreads();
  }
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 4; j++) {
      long long row = blockIdx.y * 64 + wm + i * 16 + l / 4, col = blockIdx.x * 64 + wn + j * 8 + (l % 4) * 2;
      *(float2*)&C[row * N + col] = make_float2(c[j][i][0], c[j][i][1]);
      *(float2*)&C[(row + 8) * N + col] = make_float2(c[j][i][2], c[j][i][3]);
    }
}
