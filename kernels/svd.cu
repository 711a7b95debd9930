// Singular value decomposition, in float64: one-sided Jacobi by blocks of rows.
//
// Targets: sm80.
//
// The matrix or its transpose, whichever is wide, is A [m, n], m ≤ n. Its rows are
// rotated in pairs until all are orthogonal (Hestenes, 1958): B = Q·A. Their lengths are
// then the singular values, their directions the right singular vectors, and the columns
// of Qᵀ the left ones. Small values keep their digits: no angle is computed from anything
// but the rows themselves, relative to their own lengths (Demmel and Veselić, 1992).
//
// Rows are handled 16 at a time, a block of rows. A sweep pairs each block with each other
// once, in blocks−1 rounds of blocks/2 pairs that share no row (as in a tournament: one
// stays, the others go round). For a pair, 32 rows, a round computes their products
// (svdgram), the rotations that make those a diagonal matrix (svdsolve: cyclic two-sided
// Jacobi in shared memory, the longest rows first), and the rotated rows (svdrotate). Each
// sweep is judged by the largest |cosine| between rows that it met before it turned them.
//
//   svdload(rows, w, m, n, padded, ld, turned)
//     rows [padded, ld] f64 = A | I, with zeros below m: w is f32 [m, n], or, turned ≠ 0,
//     [n, m]. padded = 16·blocks, blocks even; ld = n + m.
//   svdgram(gram, rows, n, ld, blocks, round)
//     gram [blocks/2, ⌈n/1024⌉, 32, 32] f64: the products of a pair's rows over 1024 columns.
//   svdsolve(rotations, cosines, gram, chunks, floor, tolerance)
//     cosines [blocks/2] f64: the largest between a pair's rows, those no longer than floor
//     left out. Where it is above the tolerance, rotations [blocks/2, 32, 32] f64 become those
//     that remove it; otherwise they are not written.
//   svdrotate(rows, rotations, cosines, tolerance, ld, blocks, round)
//     the pair's rows, over all ld columns, become rotations·rows.
//   svdlengths(lengths, rows, n, ld, padded)
//     lengths [2, padded] f64: of each row's n columns, and of the rest.
//   svdrefill(rows, lengths, longest, scale, n, ld, padded)
//     the n columns of a row that is no longer than longest, and is one of Q's, become
//     random ones, always the same, of a length of about scale. Rotated once more, they
//     become the vectors that complete the basis: too short to turn a row that was there.
//   svdfactors(u, vt, rows, order, inverse, m, n, ld, turned, bf16)
//     u f32 [out, m], vt f32 [m, in] of the rows order[0…m), i32, times inverse, f64 [m];
//     bf16 ≠ 0 rounds them to bfloat16.
//   svderror(parts, w, u, s, vt, out, in, r)
//     parts [blocks, 2] f64: Σ(w − u·diag(s)·vt)² and Σw² of each block's tile.
//
// Order of summation: svdgram, in each of four parts of a chunk's columns (8 of every 32),
// rising, the parts in order, and chunks in order; svdlengths, each thread its columns, then
// as blockSum; svderror along r, then as blockSum. All by fma. So the result is a function of
// the matrix alone.
//
// Launch: 256 threads. svdgram ⌈n/1024⌉ × blocks/2; svdsolve blocks/2; svdrotate ⌈ld/128⌉ ×
// blocks/2; svdload and svdfactors ⌈ld/32⌉ × ⌈padded/32⌉ (⌈m/32⌉); svdlengths and svdrefill a
// block a row; svderror ⌈in/64⌉ × ⌈out/64⌉.
//
// Cost: a sweep is m²·(4·n + 2·m) fma; it reads the rows m/16 times over their n columns
// and m/16 times whole, and writes them m/16 times: m²·(3n + 2m)/2 bytes. Pairs that need no
// turn any more are only read. There are 7 sweeps for 128 × 384 and 11 for 512 × 512, random
// ones, one or two more with each doubling, and 3·(blocks−1) launches in each. With 13 of
// them 4096 × 4096 is 5·10¹² fma and 2·10¹² bytes.
#include "common.cuh"

constexpr int kSvdThreads = 256;
constexpr int kBlockRows = 16;
constexpr int kPairRows = 2 * kBlockRows;
constexpr int kPairSquare = kPairRows * kPairRows;
constexpr int kChunkColumns = 1024;
constexpr int kRotated = 128;    // Columns that a block rotates.
// Sweeps of svdsolve: no more than these, and none after one whose angles were small. What
// is left the next sweep over the matrix removes.
constexpr int kInnerSweeps = 2;
static_assert(kInnerSweeps == 2, "svdsolve looks once whether to go on");
constexpr double kSmallAngle = 1e-5;
// Cosines that svdsolve leaves, far below any tolerance.
constexpr double kNegligible = 1e-13;

// meet returns whom the i-th pair of a round joins, of so many players, an even number.
struct Meeting {
  int first, second;
};
__device__ __forceinline__ Meeting meet(int i, int round, int players) {
  const int ring = players - 1;
  int a = ring, b = round;
  if (i > 0) a = (round + i) % ring, b = (round - i + ring) % ring;
  return {min(a, b), max(a, b)};
}

// A pair's row, 0…31, in the matrix.
__device__ __forceinline__ i64 pairRow(const Meeting &pair, int row) {
  return (i64)(row < kBlockRows ? pair.first : pair.second) * kBlockRows + row % kBlockRows;
}

__device__ __forceinline__ double blockMaximum(double v, double *scratch) {
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) v = fmax(v, __shfl_xor_sync(kAll, v, d));
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = v;
  __syncthreads();
  double top = scratch[0];
#pragma unroll
  for (int w = 1; w < kSvdThreads / kWarp; w++) top = fmax(top, scratch[w]);
  return top;
}

constexpr int kSquare = 32, kSquareRows = kSvdThreads / kSquare;  // Tiles that may be turned.

KERNEL(kSvdThreads) svdload(double *rows, const float *w, i64 m, i64 n, i64 padded, i64 ld, i64 turned) {
  __shared__ float tile[kSquare][kSquare + 1];
  const int x = threadIdx.x % kSquare, y = threadIdx.x / kSquare;
  const i64 row0 = (i64)blockIdx.y * kSquare, column0 = (i64)blockIdx.x * kSquare;
  if (turned) {
    for (int i = y; i < kSquare; i += kSquareRows)
      tile[x][i] = row0 + x < m && column0 + i < n ? w[(column0 + i) * m + row0 + x] : 0;
  } else {
    for (int i = y; i < kSquare; i += kSquareRows)
      tile[i][x] = row0 + i < m && column0 + x < n ? w[(row0 + i) * n + column0 + x] : 0;
  }
  __syncthreads();
  for (int i = y; i < kSquare; i += kSquareRows) {
    const i64 row = row0 + i, column = column0 + x;
    if (row >= padded || column >= ld) continue;
    rows[row * ld + column] = column < n ? (double)tile[i][x] : (column - n == row ? 1.0 : 0.0);
  }
}

// Four groups of 64 threads have a quarter of the columns each, and 4 × 4 products a thread.
KERNEL(kSvdThreads) svdgram(double *gram, const double *rows, i64 n, i64 ld, i64 blocks, i64 round) {
  constexpr int kSlab = 32, kGroups = 4, kEach = kSlab / kGroups, kPitch = kSlab + 1;
  __shared__ double scratch[kGroups * kPairSquare];  // The slab; in the end, the groups' sums.
  const Meeting pair = meet(blockIdx.y, (int)round, (int)blocks);
  const int group = threadIdx.x / 64, tx = threadIdx.x % 8, ty = threadIdx.x / 8 % 8;
  const int line = threadIdx.x / kSlab, at = threadIdx.x % kSlab;
  const i64 from = (i64)blockIdx.x * kChunkColumns, to = min(n, from + kChunkColumns);
  double sum[4][4] = {};
  for (i64 column = from; column < to; column += kSlab) {
#pragma unroll
    for (int i = 0; i < kPairRows; i += kSvdThreads / kSlab)
      scratch[(line + i) * kPitch + at] = column + at < to ? rows[pairRow(pair, line + i) * ld + column + at] : 0;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kEach; k++) {
      double a[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        a[i] = scratch[(ty + 8 * i) * kPitch + group * kEach + k];
        b[i] = scratch[(tx + 8 * i) * kPitch + group * kEach + k];
      }
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sum[i][j] = fma(a[i], b[j], sum[i][j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) scratch[group * kPairSquare + (ty + 8 * i) * kPairRows + tx + 8 * j] = sum[i][j];
  __syncthreads();
  gram += ((i64)blockIdx.y * gridDim.x + blockIdx.x) * kPairSquare;
  for (int e = threadIdx.x; e < kPairSquare; e += kSvdThreads) {
    double total = scratch[e];
#pragma unroll
    for (int g = 1; g < kGroups; g++) total += scratch[g * kPairSquare + e];
    gram[e] = total;
  }
}

// Turn is the rotation x' = c·x − s·y, y' = s·x + c·y of two rows.
struct Turn {
  int first, second;
  double c, s, t;  // t = s/c.
};

KERNEL(kSvdThreads) svdsolve(double *rotations, double *cosines, const double *gram, i64 chunks, double floor, double tolerance) {
  constexpr int kPitch = kPairRows + 1, kTurns = kPairRows / 2;
  __shared__ double g[kPairRows][kPitch], q[kPairRows][kPitch], scratch[kSvdThreads / kWarp];
  __shared__ Turn turns[kTurns];
  __shared__ int more;
  const double lowest = floor * floor;
  gram += (i64)blockIdx.x * chunks * kPairSquare;
  for (int e = threadIdx.x; e < kPairSquare; e += kSvdThreads) {
    double total = gram[e];
    for (i64 c = 1; c < chunks; c++) total += gram[c * kPairSquare + e];
    g[e / kPairRows][e % kPairRows] = total;
    q[e / kPairRows][e % kPairRows] = e / kPairRows == e % kPairRows;
  }
  __syncthreads();
  double worst = 0;
  for (int e = threadIdx.x; e < kPairSquare; e += kSvdThreads) {
    const int i = e / kPairRows, j = e % kPairRows;
    const double a = g[i][i], b = g[j][j];
    if (i < j && a > lowest && b > lowest) worst = fmax(worst, fabs(g[i][j]) / (sqrt(a) * sqrt(b)));
  }
  worst = blockMaximum(worst, scratch);
  if (threadIdx.x == 0) cosines[blockIdx.x] = worst;
  if (!(worst > tolerance)) return;
  const int down = threadIdx.x / kTurns, across = threadIdx.x % kTurns;
  bool large = false;
  for (int step = 0; step < kInnerSweeps * (kPairRows - 1); step++) {
    if (step == kPairRows - 1) {
      if (threadIdx.x < kWarp) {
        const bool any = __any_sync(kAll, large);
        if (threadIdx.x == 0) more = any;
      }
      __syncthreads();
      if (!more) break;
    }
    if (threadIdx.x < kTurns) {
      const Meeting m = meet(threadIdx.x, step % (kPairRows - 1), kPairRows);
      const double a = g[m.first][m.first], b = g[m.second][m.second], off = g[m.first][m.second];
      Turn turn{m.first, m.second, 1, 0, 0};
      // Rounding may take a short row's to zero or below: it waits for the next sweep.
      if (a > lowest && b > lowest && fabs(off) > kNegligible * sqrt(a) * sqrt(b)) {
        const double zeta = (b - a) / (2 * off);
        turn.t = copysign(1.0, zeta) / (fabs(zeta) + sqrt(1 + zeta * zeta));
        turn.c = 1 / sqrt(1 + turn.t * turn.t);
        turn.s = turn.c * turn.t;
        large |= fabs(turn.t) > kSmallAngle;
      }
      turns[threadIdx.x] = turn;
    }
    __syncthreads();
    // Each thread has one square of four products, and of q two columns of two rows.
    const Turn r = turns[down], c = turns[across];
    if (r.t != 0 || c.t != 0) {
      const double pp = g[r.first][c.first], pq = g[r.first][c.second], qp = g[r.second][c.first], qq = g[r.second][c.second];
      if (down == across) {
        g[r.first][r.first] = fma(-r.t, pq, pp), g[r.second][r.second] = fma(r.t, pq, qq);
        g[r.first][r.second] = g[r.second][r.first] = 0;
      } else {
        const double p0 = r.c * pp - r.s * qp, p1 = r.c * pq - r.s * qq, q0 = r.s * pp + r.c * qp, q1 = r.s * pq + r.c * qq;
        g[r.first][c.first] = c.c * p0 - c.s * p1, g[r.first][c.second] = c.s * p0 + c.c * p1;
        g[r.second][c.first] = c.c * q0 - c.s * q1, g[r.second][c.second] = c.s * q0 + c.c * q1;
      }
    }
    if (r.t != 0) {
#pragma unroll
      for (int i = across; i < kPairRows; i += kTurns) {
        const double p = q[r.first][i], o = q[r.second][i];
        q[r.first][i] = r.c * p - r.s * o, q[r.second][i] = r.s * p + r.c * o;
      }
    }
    __syncthreads();
  }
  // A row's place is the number of those that are longer.
  for (int e = threadIdx.x; e < kPairSquare; e += kSvdThreads) {
    const int row = e / kPairRows;
    const double own = g[row][row];
    int place = 0;
    for (int i = 0; i < kPairRows; i++) place += g[i][i] > own || (g[i][i] == own && i < row);
    rotations[(i64)blockIdx.x * kPairSquare + place * kPairRows + e % kPairRows] = q[row][e % kPairRows];
  }
}

// A warp has four rows of the result, and each lane four columns of them.
KERNEL(kSvdThreads) svdrotate(double *rows, const double *rotations, const double *cosines, double tolerance, i64 ld, i64 blocks, i64 round) {
  __shared__ double x[kPairRows][kRotated], turn[kPairSquare];
  if (!(cosines[blockIdx.y] > tolerance)) return;
  const Meeting pair = meet(blockIdx.y, (int)round, (int)blocks);
  const i64 column = (i64)blockIdx.x * kRotated;
  for (int e = threadIdx.x; e < kPairSquare; e += kSvdThreads) turn[e] = rotations[(i64)blockIdx.y * kPairSquare + e];
  for (int e = threadIdx.x; e < kPairRows * kRotated; e += kSvdThreads) {
    const int row = e / kRotated, at = e % kRotated;
    x[row][at] = column + at < ld ? rows[pairRow(pair, row) * ld + column + at] : 0;
  }
  __syncthreads();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  double y[4][4] = {};
#pragma unroll 8
  for (int k = 0; k < kPairRows; k++) {
    double a[4], b[4];
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = turn[(warp * 4 + i) * kPairRows + k], b[i] = x[k][lane + i * kWarp];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) y[i][j] = fma(a[i], b[j], y[i][j]);
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    double *to = rows + pairRow(pair, warp * 4 + i) * ld + column;
#pragma unroll
    for (int j = 0; j < 4; j++)
      if (column + lane + j * kWarp < ld) to[lane + j * kWarp] = y[i][j];
  }
}

KERNEL(kSvdThreads) svdlengths(double *lengths, const double *rows, i64 n, i64 ld, i64 padded) {
  __shared__ double scratch[2][kSvdThreads / kWarp];
  const i64 row = blockIdx.x;
  if (row >= padded) return;
  double right = 0, left = 0;
  for (i64 i = threadIdx.x; i < ld; i += kSvdThreads) {
    const double v = rows[row * ld + i];
    if (i < n)
      right = fma(v, v, right);
    else
      left = fma(v, v, left);
  }
  right = blockSum<kSvdThreads>(right, scratch[0]);
  left = blockSum<kSvdThreads>(left, scratch[1]);
  if (threadIdx.x == 0) lengths[row] = sqrt(right), lengths[padded + row] = sqrt(left);
}

// scramble is the last step of SplitMix64 (Steele, Lea and Flood, 2014).
__device__ __forceinline__ u64 scramble(u64 v) {
  v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9ull;
  v = (v ^ (v >> 27)) * 0x94d049bb133111ebull;
  return v ^ (v >> 31);
}

KERNEL(kSvdThreads) svdrefill(double *rows, const double *lengths, double longest, double scale, i64 n, i64 ld, i64 padded) {
  const i64 row = blockIdx.x;
  if (row >= padded || lengths[row] > longest || lengths[padded + row] < 0.5) return;
  const double unit = scale * sqrt(3.0 / (double)n) / (double)(1ull << 52);  // Of numbers in −1…1, whose mean square is 1/3.
  for (i64 i = threadIdx.x; i < n; i += kSvdThreads) {
    const u64 random = scramble((u64)(row * n + i + 1) * 0x9e3779b97f4a7c15ull);
    rows[row * ld + i] = unit * (double)((i64)(random >> 11) - (1ll << 52));
  }
}

KERNEL(kSvdThreads) svdfactors(float *u, float *vt, const double *rows, const int *order, const double *inverse, i64 m, i64 n, i64 ld, i64 turned, i64 bf16s) {
  __shared__ float tile[kSquare][kSquare + 1];
  const int x = threadIdx.x % kSquare, y = threadIdx.x / kSquare;
  const i64 first = (i64)blockIdx.y * kSquare, column0 = (i64)blockIdx.x * kSquare;
  // Of the right vectors, one side of n, and the left ones, of m, one is written as it is
  // and the other turned.
  for (int i = y; i < kSquare; i += kSquareRows) {
    const i64 factor = first + i, column = column0 + x;
    if (factor >= m || column >= ld) continue;
    const double v = rows[order[factor] * ld + column];
    float f = (float)(column < n ? v * inverse[factor] : v);
    if (bf16s) f = widen(narrow<bf16>(f));
    const bool right = column < n;
    if (right != (turned != 0))
      vt[factor * (right ? n : m) + column - (right ? 0 : n)] = f;
    tile[i][x] = f;
  }
  __syncthreads();
  for (int i = y; i < kSquare; i += kSquareRows) {
    const i64 factor = first + x, column = column0 + i;
    if (factor >= m || column >= ld) continue;
    const bool right = column < n;
    if (right == (turned != 0)) u[(column - (right ? 0 : n)) * m + factor] = tile[x][i];
  }
}

// 64 × 64 by 256 threads, 4 × 4 each.
KERNEL(kSvdThreads) svderror(double *parts, const float *w, const float *u, const float *s, const float *vt, i64 out, i64 in, i64 r) {
  constexpr int kTile = 64, kStep = 16, kPitch = kTile + 1;
  __shared__ double us[kStep][kPitch], v[kStep][kPitch], scratch[2][kSvdThreads / kWarp];
  const i64 row0 = (i64)blockIdx.y * kTile, column0 = (i64)blockIdx.x * kTile;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  double rest[4][4] = {}, power = 0, wrong = 0;
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const i64 row = row0 + ty + 16 * i, column = column0 + tx + 16 * j;
      if (row < out && column < in) rest[i][j] = (double)w[row * in + column];
      power = fma(rest[i][j], rest[i][j], power);
    }
  for (i64 r0 = 0; r0 < r; r0 += kStep) {
    for (int e = threadIdx.x; e < kTile * kStep; e += kSvdThreads) {
      const int rank = e % kStep, row = e / kStep;
      us[rank][row] = row0 + row < out && r0 + rank < r ? (double)u[(row0 + row) * r + r0 + rank] * (double)s[r0 + rank] : 0;
      const int column = e % kTile, line = e / kTile;
      v[line][column] = column0 + column < in && r0 + line < r ? (double)vt[(r0 + line) * in + column0 + column] : 0;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kStep; k++) {
      double a[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; i++) a[i] = -us[k][ty + 16 * i], b[i] = v[k][tx + 16 * i];
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) rest[i][j] = fma(a[i], b[j], rest[i][j]);
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) wrong = fma(rest[i][j], rest[i][j], wrong);
  wrong = blockSum<kSvdThreads>(wrong, scratch[0]);
  power = blockSum<kSvdThreads>(power, scratch[1]);
  if (threadIdx.x == 0) {
    parts += 2 * ((i64)blockIdx.y * gridDim.x + blockIdx.x);
    parts[0] = wrong, parts[1] = power;
  }
}
