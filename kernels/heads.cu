// What a step ends with: chosen tokens and log-probabilities, or a loss and its gradient.
//
// Targets: sm80.
//
//   decide_f32(tokens, status, scores, logits, work, asks, count, v)
//       Answers `count` questions about rows of logits f32 [·, v], v ≤ 2²⁰, which are not
//       changed. Several may be about the same row.
//   policygradient_f32(logits, base, tokens, advantages, losses, n, v, klweight, scale)
//       Replaces each row of logits f32 [n, v] by the gradient of
//       scale·(−advantage·log π'(token) + klweight·KL(π'‖π)), where π' is its softmax and π
//       that of the row of base f32 [n, v]; base may be 0, then klweight is 0. tokens
//       int32 [n], advantages f64 [n]. losses f64 [n, 2] receives log π'(token) and KL.
//
// tokens int32 [count] receives the tokens chosen, 0 where none was asked for; status
// int32 [count] why there is no answer: 0 there is one, 1 a logit is NaN, 2 the largest is
// +∞ or all are −∞. scores f64 receives the log-probabilities that were asked for; where
// status is not 0 they are NaN. Put one behind the other they are one transfer.
//
// asks is one buffer: `count` records of 96 bytes, and behind them the lists that these
// name, by the index of their first 4-byte word, counted from the beginning of asks, and
// their number of entries. Tokens are in range, and distinct within a list.
//
//   byte  0  f64  min(1/temperature, the largest float32)
//         8  f64  ln(min-p); −∞ without
//        16  f64  top-p; 0 is 1
//        24  f64  the uniform number, in [0, 1)
//        32  f64  the repetition penalty
//        40  int32  the row
//        44  int32  0 no token is asked for, 1 the likeliest, 2 one that is drawn
//        48  int32  top-k; 0, or more than v, is v
//        52  int32  the row of work f32 [·, v] for the changed logits; −1 if all three
//                   lists that change some are empty and all tokens are allowed. No two
//                   asks have the same.
//        56  2 int32  tokens that the repetition penalty is for: int32 each
//        64  2 int32  bias: int32 token and f32 to add, each
//        72  2 int32  other penalties: likewise
//        80  2 int32  tokens whose log-probabilities (of the logits as they are) are asked
//                   for: int32 each
//        88  int32  the index in scores where these go
//        92  int32  the index of the first of ⌈v/32⌉ words, where bit i%32 of word i/32 says
//                   whether token i is allowed; −1 if all are
//
// decide does what sample.Chooser does, in float64, operation by operation and in its
// order, none of them fused; so it chooses the same token, whatever rounding does, as Go
// does on amd64. Only log-probabilities go through another logarithm, and top-p without
// top-k takes a token more where two orders of a sum part at its very edge.
//
// Launch: 512 threads; a block has one ask, or row: gridDim.x = count or n, or more.
//
// Cost: decide reads the row once for the likeliest token, once more for a draw from all
// tokens or a log-probability, and for top-k or top-p three times, if what is kept is
// among the 2048 best, and three times for each further 2048; it copies a row whose logits
// are changed. policygradient reads both rows three times (once from device memory, where
// they fit the cache) and writes one.
#include "choose.cuh"

// List is a part of asks.
struct List {
  int first, count;
};

struct Ask {
  double inverse, lowest, topp, uniform, repetition;
  int row, mode, topk, copy;
  List repeated, bias, penalties, scored;
  int scores, allowed;
};
static_assert(sizeof(Ask) == 96, "as documented");

enum { kNone, kLikeliest, kDrawn };
enum { kFine, kNaN, kNotFinite };

// change writes a row with the penalties and the bias of an ask. A token that is not allowed
// has −∞, which no list changes.
__device__ __forceinline__ void change(float *to, const float *logits, int v, const Ask &ask, const int *words) {
  const int *allowed = ask.allowed < 0 ? nullptr : words + ask.allowed;
  for (int i = threadIdx.x; i < v; i += kHeadThreads) to[i] = !allowed || (allowed[i / 32] >> (i % 32) & 1) ? logits[i] : __int_as_float(0xff800000);
  __syncthreads();
  for (int i = threadIdx.x; i < ask.repeated.count; i += kHeadThreads) {
    float &l = to[words[ask.repeated.first + i]];
    l = (float)(l > 0 ? (double)l / ask.repetition : __dmul_rn(l, ask.repetition));
  }
  __syncthreads();
  for (const List &list : {ask.bias, ask.penalties}) {
    for (int i = threadIdx.x; i < list.count; i += kHeadThreads) to[words[list.first + 2 * i]] += __int_as_float(words[list.first + 2 * i + 1]);
    __syncthreads();
  }
}

// statusOf says whether a token can be chosen of a row.
__device__ __forceinline__ int statusOf(const Most &most, const float *logits) {
  return most.nan ? kNaN : isinf(logits[most.token()]) ? kNotFinite : kFine;
}

// score writes log-probabilities.
__device__ __forceinline__ int score(double *scores, const float *logits, int v, const List &list, const int *words, ChooseMemory &m) {
  const Most most = mostOf(logits, v, m);
  const int status = statusOf(most, logits);
  if (status == kFine) {
    const Weights w = {logits, v, logits[most.token()], 1, kLowest, &m.powers};
    sumBlocks(m.sums, w, m.staged);
    __syncthreads();
    if (threadIdx.x == 0) m.number = w.peak + log(addUp(m.sums, v));
    __syncthreads();
  }
  const double sum = m.number;
  for (int i = threadIdx.x; i < list.count; i += kHeadThreads)
    scores[i] = status == kFine ? logits[words[list.first + i]] - sum : __longlong_as_double(0x7ff8000000000000);
  return status;
}

KERNEL(kHeadThreads) decide_f32(int *tokens, int *status, double *scores, const float *logits, float *work, const Ask *asks, i64 count, i64 v) {
  __shared__ ChooseMemory m;
  if (blockIdx.x >= count) return;
  const Ask ask = asks[blockIdx.x];
  const int *words = reinterpret_cast<const int *>(asks), size = (int)v;
  const float *row = logits + ask.row * v, *changed = row;
  m.powers.load();
  if (threadIdx.x == 0) m.number = 0;
  __syncthreads();
  int state = kFine, token = 0;
  if (ask.mode != kNone) {
    if (ask.copy >= 0) {
      change(work + ask.copy * v, row, size, ask, words);
      changed = work + ask.copy * v;
    }
    const Most most = mostOf(changed, size, m);
    state = statusOf(most, changed);
    token = most.token();
    if (state == kFine && ask.mode == kDrawn) {
      const Weights w = {changed, size, changed[token], ask.inverse, ask.lowest, &m.powers};
      const int k = ask.topk <= 0 || ask.topk > size ? size : ask.topk;
      const double p = ask.topp == 0 ? 1 : ask.topp;
      token = k < size || p < 1 ? drawTruncated(w, k, p, ask.uniform, m) : draw(w, ask.uniform, m);
    }
    if (state != kFine) token = 0;
  }
  if (ask.scored.count > 0) {
    __syncthreads();
    const int its = score(scores + ask.scores, row, size, ask.scored, words, m);
    if (state == kFine) state = its;
  }
  if (threadIdx.x == 0) tokens[blockIdx.x] = token, status[blockIdx.x] = state;
}

// peakOf returns the largest of a row; NaN is none.
__device__ __forceinline__ double peakOf(const float *row, i64 v, float *scratch) {
  float top = -kInfinity;
  for (i64 i = threadIdx.x; i < v; i += kHeadThreads) top = fmaxf(top, row[i]);
  return blockMax<kHeadThreads>(top, scratch);
}

KERNEL(kHeadThreads) policygradient_f32(float *logits, const float *base, const int *tokens, const double *advantages, double *losses, i64 n, i64 v, double klweight, double scale) {
  __shared__ Powers powers;
  __shared__ float tops[2][kHeadWarps];
  __shared__ double scratch[3][kHeadWarps];
  const i64 row = blockIdx.x;
  if (row >= n) return;
  powers.load();  // The barrier of peakOf is between.
  float *mine = logits + row * v;
  const float *other = base ? base + row * v : nullptr;
  const double peak = peakOf(mine, v, tops[0]), otherPeak = other ? peakOf(other, v, tops[1]) : 0;
  double sum = 0, otherSum = 0, along = 0;  // Σ π'·(l − b), up to the factor.
  for (i64 i = threadIdx.x; i < v; i += kHeadThreads) {
    const double l = mine[i], e = powers.exp(l - peak);
    sum += e;
    if (other) {
      const double b = other[i];
      otherSum += powers.exp(b - otherPeak);
      along += e * (l - b);
    }
  }
  sum = blockSum<kHeadThreads>(sum, scratch[0]);
  const double norm = peak + log(sum);
  double shift = 0, kl = 0;
  if (other) {
    shift = otherPeak + log(blockSum<kHeadThreads>(otherSum, scratch[1])) - norm;
    kl = blockSum<kHeadThreads>(along, scratch[2]) / sum + shift;
  }
  const int token = tokens[row];
  const double advantage = advantages[row];
  if (threadIdx.x == 0) losses[2 * row] = mine[token] - norm, losses[2 * row + 1] = kl;
  __syncthreads();
  for (i64 i = threadIdx.x; i < v; i += kHeadThreads) {
    const double l = mine[i], probability = powers.exp(l - peak) / sum;
    double g = advantage * probability;
    if (klweight != 0) g += klweight * probability * (l - other[i] + shift - kl);
    if (i == token) g -= advantage;
    mine[i] = (float)(g * scale);
  }
}
