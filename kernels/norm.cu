// Norms and activations, row by row or element by element.
//
// Targets: sm80.
//
// T is f32 or bf16, the storage of activations; gains are f32. n rows of c columns.
//
//   rmsnorm_T(y, x, gain, n, c, eps)             y = x / √(mean(x²) + eps) ⊙ gain
//   rmsnormback_T(dx, dy, x, gain, n, c, eps)    dx += its gradient with respect to x
//   swiglu_T(y, gate, up, count)                 y = silu(gate) ⊙ up
//   swigluback_T(dgate, dup, dy, gate, up, count)
//   logsoftmax_T(y f32, x, n, c)                 y = x − log Σ eˣ
//
// y may be x, gate or up; dgate and dup may be any of their operands.
//
// Launch: 256 threads. Rows: any grid; a block takes rows blockIdx.x, + gridDim.x, …,
// so gridDim.x = n at most is of use. Elements: a thread takes 4 at a time, any grid.
//
// Cost: rmsnorm reads x and writes y once (rows up to 8192 columns stay in registers;
// what is beyond is read twice) and gain once a block; rmsnormback reads dy, x, dx and
// writes dx. The elementwise ones touch each operand once. logsoftmax reads x twice
// and writes y.
//
// Order of a row's sums: thread t adds the elements 4t…4t+3, 4(t+256)…, rising; then a
// butterfly over a warp's lanes; then the warps, rising.
#include "common.cuh"

constexpr int kThreads = 256;
constexpr int kVector = 4;  // Elements that a thread has behind each other.
constexpr int kKept = 8;    // Vectors of a row that it keeps in registers.
constexpr i64 kStride = kThreads * kVector;

// vector calls f(i, at, left) for each vector of a row that is this thread's: the
// i-th begins at column `at`.
template <class F> __device__ __forceinline__ void kept(i64 c, F f) {
#pragma unroll
  for (int i = 0; i < kKept; i++) {
    const i64 at = i * kStride + threadIdx.x * kVector;
    if (at < c) f(i, at, c - at);
  }
}
template <class F> __device__ __forceinline__ void beyond(i64 c, F f) {
  for (i64 at = kKept * kStride + threadIdx.x * kVector; at < c; at += kStride) f(at, c - at);
}

template <class T> __device__ __forceinline__ void rmsnorm(T *y, const T *x, const float *gain, i64 n, i64 c, double eps) {
  __shared__ float scratch[2][kThreads / kWarp];
  float g[kKept][kVector], v[kKept][kVector];
  if (blockIdx.x < n) kept(c, [&](int i, i64 at, i64 left) { load(g[i], gain + at, left); });
  int turn = 0;
  for (i64 row = blockIdx.x; row < n; row += gridDim.x, turn ^= 1) {
    const T *in = x + row * c;
    T *out = y + row * c;
    float sum = 0;
    kept(c, [&](int i, i64 at, i64 left) {
      load(v[i], in + at, left);
#pragma unroll
      for (int j = 0; j < kVector; j++) sum = fmaf(v[i][j], v[i][j], sum);
    });
    beyond(c, [&](i64 at, i64 left) {
      float w[kVector];
      load(w, in + at, left);
#pragma unroll
      for (int j = 0; j < kVector; j++) sum = fmaf(w[j], w[j], sum);
    });
    // Two scratch areas in turn: the barrier of one row parts the readers of the row
    // before from the writers of the next.
    sum = blockSum<kThreads>(sum, scratch[turn]);
    const float inverse = 1 / sqrtf(sum / (float)c + (float)eps);
    kept(c, [&](int i, i64 at, i64 left) {
#pragma unroll
      for (int j = 0; j < kVector; j++) v[i][j] = v[i][j] * inverse * g[i][j];
      store(out + at, v[i], left);
    });
    beyond(c, [&](i64 at, i64 left) {
      float w[kVector], h[kVector];
      load(w, in + at, left);
      load(h, gain + at, left);
#pragma unroll
      for (int j = 0; j < kVector; j++) w[j] = w[j] * inverse * h[j];
      store(out + at, w, left);
    });
  }
}

KERNEL(kThreads) rmsnorm_f32(float *y, const float *x, const float *gain, i64 n, i64 c, double eps) { rmsnorm(y, x, gain, n, c, eps); }
KERNEL(kThreads) rmsnorm_bf16(bf16 *y, const bf16 *x, const float *gain, i64 n, i64 c, double eps) { rmsnorm(y, x, gain, n, c, eps); }

// With i = 1/√(mean(x²) + eps): dx += i·g⊙dy − x·i³·⟨g⊙dy, x⟩/c.
template <class T>
__device__ __forceinline__ void rmsnormback(T *dx, const T *dy, const T *x, const float *gain, i64 n, i64 c, double eps) {
  __shared__ float scratch[2][2][kThreads / kWarp];
  int turn = 0;
  for (i64 row = blockIdx.x; row < n; row += gridDim.x, turn ^= 1) {
    const T *in = x + row * c, *d = dy + row * c;
    T *out = dx + row * c;
    float v[kKept][kVector], s[kKept][kVector], squares = 0, along = 0;
    auto add = [&](float(&v)[kVector], float(&s)[kVector], i64 at, i64 left) {
      float g[kVector];
      load(v, in + at, left);
      load(s, d + at, left);
      load(g, gain + at, left);
#pragma unroll
      for (int j = 0; j < kVector; j++) {
        s[j] *= g[j];
        squares = fmaf(v[j], v[j], squares);
        along = fmaf(s[j], v[j], along);
      }
    };
    kept(c, [&](int i, i64 at, i64 left) { add(v[i], s[i], at, left); });
    beyond(c, [&](i64 at, i64 left) {
      float w[kVector], t[kVector];
      add(w, t, at, left);
    });
    squares = blockSum<kThreads>(squares, scratch[turn][0]);
    along = blockSum<kThreads>(along, scratch[turn][1]);
    const float inverse = 1 / sqrtf(squares / (float)c + (float)eps);
    along *= inverse * inverse * inverse / (float)c;
    auto write = [&](float(&v)[kVector], float(&s)[kVector], i64 at, i64 left) {
      float old[kVector];
      load(old, out + at, left);
#pragma unroll
      for (int j = 0; j < kVector; j++) old[j] = old[j] + s[j] * inverse - along * v[j];
      store(out + at, old, left);
    };
    kept(c, [&](int i, i64 at, i64 left) { write(v[i], s[i], at, left); });
    beyond(c, [&](i64 at, i64 left) {
      float w[kVector], t[kVector], g[kVector];
      load(w, in + at, left);
      load(t, d + at, left);
      load(g, gain + at, left);
#pragma unroll
      for (int j = 0; j < kVector; j++) t[j] *= g[j];
      write(w, t, at, left);
    });
  }
}

KERNEL(kThreads) rmsnormback_f32(float *dx, const float *dy, const float *x, const float *gain, i64 n, i64 c, double eps) {
  rmsnormback(dx, dy, x, gain, n, c, eps);
}
KERNEL(kThreads) rmsnormback_bf16(bf16 *dx, const bf16 *dy, const bf16 *x, const float *gain, i64 n, i64 c, double eps) {
  rmsnormback(dx, dy, x, gain, n, c, eps);
}

__device__ __forceinline__ float sigmoid(float v) { return 1 / (1 + expf(-v)); }

// each calls f(at, left) for each vector of elements that is this thread's.
template <class F> __device__ __forceinline__ void each(i64 count, F f) {
  for (i64 at = ((i64)blockIdx.x * kThreads + threadIdx.x) * kVector; at < count; at += (i64)gridDim.x * kStride) f(at, count - at);
}

template <class T> __device__ __forceinline__ void swiglu(T *y, const T *gate, const T *up, i64 count) {
  each(count, [&](i64 at, i64 left) {
    float g[kVector], u[kVector];
    load(g, gate + at, left);
    load(u, up + at, left);
#pragma unroll
    for (int j = 0; j < kVector; j++) u[j] = g[j] * sigmoid(g[j]) * u[j];
    store(y + at, u, left);
  });
}

KERNEL(kThreads) swiglu_f32(float *y, const float *gate, const float *up, i64 count) { swiglu(y, gate, up, count); }
KERNEL(kThreads) swiglu_bf16(bf16 *y, const bf16 *gate, const bf16 *up, i64 count) { swiglu(y, gate, up, count); }

template <class T> __device__ __forceinline__ void swigluback(T *dgate, T *dup, const T *dy, const T *gate, const T *up, i64 count) {
  each(count, [&](i64 at, i64 left) {
    float g[kVector], u[kVector], d[kVector];
    load(g, gate + at, left);
    load(u, up + at, left);
    load(d, dy + at, left);
#pragma unroll
    for (int j = 0; j < kVector; j++) {
      const float s = sigmoid(g[j]), silu = d[j] * g[j] * s;
      g[j] = d[j] * u[j] * s * (1 + g[j] * (1 - s));
      u[j] = silu;
    }
    store(dgate + at, g, left);
    store(dup + at, u, left);
  });
}

KERNEL(kThreads) swigluback_f32(float *dgate, float *dup, const float *dy, const float *gate, const float *up, i64 count) {
  swigluback(dgate, dup, dy, gate, up, count);
}
KERNEL(kThreads) swigluback_bf16(bf16 *dgate, bf16 *dup, const bf16 *dy, const bf16 *gate, const bf16 *up, i64 count) {
  swigluback(dgate, dup, dy, gate, up, count);
}

template <class T> __device__ __forceinline__ void logsoftmax(float *y, const T *x, i64 n, i64 c) {
  __shared__ float scratch[2][2][kThreads / kWarp];
  int turn = 0;
  for (i64 row = blockIdx.x; row < n; row += gridDim.x, turn ^= 1) {
    const T *in = x + row * c;
    // Each thread's sum is relative to the largest of its elements so far.
    float top = -kInfinity, sum = 0;
    for (i64 at = threadIdx.x * kVector; at < c; at += kStride) {
      float v[kVector], peak = top;
      load(v, in + at, c - at);
#pragma unroll
      for (int j = 0; j < kVector; j++)
        if (j < c - at) peak = v[j] > peak || v[j] != v[j] ? v[j] : peak;  // NaN stays.
      if (peak == -kInfinity) continue;
      if (peak != top) sum *= expf(top - peak), top = peak;
#pragma unroll
      for (int j = 0; j < kVector; j++)
        if (j < c - at) sum += expf(v[j] - top);
    }
    const float peak = blockMax<kThreads>(top, scratch[turn][0]);
    sum = blockSum<kThreads>(top == -kInfinity ? 0 : sum * expf(top - peak), scratch[turn][1]);
    const float shift = peak + logf(sum);
    for (i64 at = threadIdx.x * kVector; at < c; at += kStride) {
      float v[kVector];
      load(v, in + at, c - at);
#pragma unroll
      for (int j = 0; j < kVector; j++) v[j] -= shift;
      store(y + row * c + at, v, c - at);
    }
  }
}

KERNEL(kThreads) logsoftmax_f32(float *y, const float *x, i64 n, i64 c) { logsoftmax(y, x, n, c); }
KERNEL(kThreads) logsoftmax_bf16(float *y, const bf16 *x, i64 n, i64 c) { logsoftmax(y, x, n, c); }
