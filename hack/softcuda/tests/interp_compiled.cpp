// What nvcc makes of C++ (tests/cu) gives what the host's compiler makes of it.
#include <cmath>
#include <fstream>
#include <sstream>

#include "cu/both.h"
#include "interp_test.h"

using namespace softtest;

namespace {

bool load(Machine& m, const char* name) {
  std::ifstream file(std::string(SOFTCUDA_TESTS) + "/ptx/" + name);
  std::stringstream text;
  text << file.rdbuf();
  if (m.load(text.str())) return true;
  fail(__FILE__, __LINE__, std::string(name) + ": " + m.error);
  return false;
}

struct Random {
  uint64_t x = 88172645463325252u;
  uint32_t next() {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    return static_cast<uint32_t>(x >> 16);
  }
  float unit() { return static_cast<float>(static_cast<int32_t>(next() % 2000001) - 1000000) / 1000000.0f; }
};

uint16_t to_bf16(float f) {
  uint32_t b = f32(f);
  return static_cast<uint16_t>((b + 0x7fff + (b >> 16 & 1)) >> 16);
}
float from_bf16(uint16_t h) { return as_f32(static_cast<uint32_t>(h) << 16); }

void compare(Machine& m, const char* kernel, uint64_t (*host)(const uint32_t*), const std::vector<uint32_t>& in) {
  size_t n = in.size() / 3;
  uint64_t from = m.upload(in), to = m.empty(8 * n);
  if (!m.run(kernel, {static_cast<unsigned>((n + 127) / 128)}, {128}, 0, {from, to, n}, 2)) return fail(__FILE__, __LINE__, softcuda::describe(m.fault));
  auto out = m.download<uint64_t>(to, n);
  int bad = 0;
  for (size_t i = 0; i < n; i++)
    if (uint64_t want = host(&in[3 * i]); out[i] != want && bad++ < 3)
      CHECK(false, std::string(kernel) + " of " + hex(in[3 * i]) + ", " + hex(in[3 * i + 1]) + ", " + hex(in[3 * i + 2]) + " gives " + hex(out[i]) + ", not " + hex(want));
}

}  // namespace

TEST(compiled_integers_arrays_and_floats) {
  Machine m;
  if (!load(m, "both.ptx")) return;
  Random r;
  std::vector<uint32_t> in;
  static const uint32_t edges[] = {0, 1, 2, 31, 32, 63, 0x7fffffff, 0x80000000, 0xffffffff, 0x8000, 0xff};
  for (int i = 0; i < 9000; i++) in.push_back(i % 5 ? r.next() : edges[r.next() % std::size(edges)]);
  compare(m, "integers_kernel", [](const uint32_t* v) { return integers(v[0], v[1], v[2]); }, in);
  compare(m, "arrays_kernel", [](const uint32_t* v) { return arrays(v[0], v[1], v[2]); }, in);
  std::vector<uint32_t> floats_in;
  for (int i = 0; i < 9000; i++) floats_in.push_back(f32(std::ldexp(r.unit(), static_cast<int>(r.next() % 60) - 30)));
  compare(m, "floats_kernel", [](const uint32_t* v) { return floats(as_f32(v[0]), as_f32(v[1]), as_f32(v[2])); }, floats_in);
}

TEST(compiled_library_functions) {
  Machine m;
  if (!load(m, "both.ptx")) return;
  Random r;
  size_t n = 1500;
  std::vector<float> in;
  for (size_t i = 0; i < 2 * n; i++) in.push_back(r.unit() * 4);
  uint64_t from = m.upload(in), to = m.empty(n * kMath * 4);
  if (!m.run("library_kernel", {12}, {128}, 0, {from, to, n}, 2)) return fail(__FILE__, __LINE__, softcuda::describe(m.fault));
  auto out = m.download<float>(to, n * kMath);
  for (int k = 0; k < kMath; k++) {
    double worst = 0;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
      float want[kMath];
      library(in[2 * i], in[2 * i + 1], want);
      double d = std::fabs(static_cast<double>(out[i * kMath + static_cast<size_t>(k)]) - want[k]) / (std::fabs(want[k]) + 1e-3);
      if (!(d <= worst)) worst = d, at = i;
    }
    CHECK(worst < 4e-6, "function " + std::to_string(k) + " is off by " + std::to_string(worst) + " at " + std::to_string(in[2 * at]) + ", " + std::to_string(in[2 * at + 1]));
  }
}

TEST(compiled_row_sums) {
  Machine m;
  if (!load(m, "both.ptx")) return;
  Random r;
  size_t rows = 5, columns = 333;
  std::vector<float> values;
  std::vector<uint16_t> brains;
  for (size_t i = 0; i < rows * columns; i++) {
    brains.push_back(to_bf16(r.unit()));
    values.push_back(from_bf16(brains.back()));
  }
  uint64_t f = m.upload(values), b = m.upload(brains), out = m.empty(4 * rows);
  auto* info = m.program->kernel("row_sums_f32");
  CHECK(info && info->param_bytes == 40 && info->param_sizes[2] == 24 && info->static_shared == 128, "");
  for (auto [kernel, in] : {std::pair{"row_sums_f32", f}, {"row_sums_bf16", b}}) {
    struct {
      uint64_t in, out;
      long long rows, columns;
      float scale, pad;
    } params = {in, out, static_cast<long long>(rows), static_cast<long long>(columns), 0.5f, 0};
    softcuda::Fault fault;
    // One block too many leaves at once.
    CHECK(softcuda::run(*m.program, *m.program->kernel(kernel), {6}, {96}, 96 * 4, &params, m.memory, 2, nullptr, &fault), softcuda::describe(fault));
    auto got = m.download<float>(out, rows);
    for (size_t i = 0; i < rows; i++) {
      double want = 0;
      for (size_t c = 0; c < columns; c++) want += values[i * columns + c] * 0.5;
      CHECK(std::fabs(got[i] - want) < 1e-5, std::to_string(got[i]) + " not " + std::to_string(want));
    }
    // Too little dynamic shared memory is caught.
    CHECK(!softcuda::run(*m.program, *m.program->kernel(kernel), {6}, {96}, 95 * 4, &params, m.memory, 2, nullptr, &fault) && fault.kind == "out-of-bounds", softcuda::describe(fault));
  }
}

TEST(compiled_halves_and_intrinsics) {
  Machine m;
  if (!load(m, "both.ptx")) return;
  Random r;
  std::vector<uint32_t> in;
  size_t n = 600;
  auto small = [&] { return static_cast<uint32_t>(to_bf16(r.unit() * 2)); };
  for (size_t i = 0; i < 3 * n; i++) in.push_back(small() | small() << 16);
  uint64_t from = m.upload(in), to = m.empty(12 * n);
  if (!m.run("halves_kernel", {5}, {128}, 0, {from, to, n})) return fail(__FILE__, __LINE__, softcuda::describe(m.fault));
  auto out = m.download<uint32_t>(to, 3 * n);
  for (size_t i = 0; i < n; i++) {
    uint32_t a = in[3 * i], b = in[3 * i + 1], c = in[3 * i + 2];
    for (int h = 0; h < 2; h++) {
      // Operations on 8 bits of mantissa are exact in double and rounded once.
      double x = from_bf16(static_cast<uint16_t>(a >> 16 * h)), y = from_bf16(static_cast<uint16_t>(b >> 16 * h)), z = from_bf16(static_cast<uint16_t>(c >> 16 * h));
      auto round = [](double v) {  // to 8 bits, to nearest even
        if (v == 0) return 0.0;
        int e;
        double f = std::frexp(v, &e);
        return std::ldexp(std::nearbyint(f * 256), e - 8);
      };
      double v = round(x * y + z);
      v = round(v + round(x * z));
      v = v > -y ? v : -y;
      float got = from_bf16(static_cast<uint16_t>(out[3 * i] >> 16 * h));
      CHECK(got == static_cast<float>(v), std::to_string(i) + ": " + std::to_string(got) + " not " + std::to_string(v));
    }
    auto dot = [](uint32_t p, uint32_t q) {
      uint32_t s = 0;
      for (int k = 0; k < 32; k += 8) s += static_cast<uint32_t>(static_cast<int8_t>(p >> k) * static_cast<int8_t>(q >> k));
      return s;
    };
    uint32_t reversed = 0;
    for (int k = 0; k < 8; k++) reversed |= (a >> (31 - k) & 1) << k;
    uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
    uint32_t permuted = 0, selector[] = {6, 1, 2, 5};
    for (int k = 0; k < 4; k++) permuted |= static_cast<uint32_t>(bytes >> (8 * selector[k]) & 0xff) << (8 * k);
    uint32_t n31 = c & 31, funnel = n31 ? b << n31 | a >> (32 - n31) : b;
    uint32_t want = static_cast<uint32_t>(__builtin_popcount(a)) + static_cast<uint32_t>(b ? __builtin_clz(b) : 32) * 100 + static_cast<uint32_t>(__builtin_ffs(static_cast<int>(c))) * 10000 + reversed + permuted + dot(a, b) + c + funnel +
                    static_cast<uint32_t>(static_cast<int64_t>(static_cast<int32_t>(a)) * static_cast<int32_t>(b) >> 32) +
                    (static_cast<int32_t>(a) < static_cast<int32_t>(b) ? b - a : a - b) + c;
    CHECK(out[3 * i + 2] == want, std::to_string(i) + ": " + hex(out[3 * i + 2]) + " not " + hex(want));
  }
}

TEST(compiled_histogram) {
  Machine m;
  if (!load(m, "both.ptx")) return;
  Random r;
  std::vector<uint32_t> in, want(64, 0);
  for (int i = 0; i < 5000; i++) in.push_back(r.next()), want[in.back() & 63]++;
  uint64_t from = m.upload(in), bins = m.upload(std::vector<uint32_t>(64, 0));
  CHECK(m.run("histogram_kernel", {7}, {96}, 0, {from, bins, in.size()}, 3), softcuda::describe(m.fault));
  CHECK(m.download<uint32_t>(bins, 64) == want, "");
}

TEST(compiled_tensor_core_product) {
  Machine m;
  if (!load(m, "gemm.ptx")) return;
  Random r;
  size_t M = 128, N = 192, K = 160;
  std::vector<uint16_t> a, b;
  for (size_t i = 0; i < M * K; i++) a.push_back(to_bf16(r.unit()));
  for (size_t i = 0; i < N * K; i++) b.push_back(to_bf16(r.unit()));
  uint64_t A = m.upload(a), B = m.upload(b), C = m.empty(M * N * 4);
  CHECK(m.run("gemm_bf16", {static_cast<unsigned>(N / 64), static_cast<unsigned>(M / 64)}, {128}, 0, {A, B, C, M, N, K}, 2), softcuda::describe(m.fault));
  auto c = m.download<float>(C, M * N);
  double worst = 0;
  for (size_t i = 0; i < M; i++)
    for (size_t j = 0; j < N; j++) {
      double sum = 0;
      for (size_t k = 0; k < K; k++) sum += static_cast<double>(from_bf16(a[i * K + k])) * from_bf16(b[j * K + k]);
      worst = std::max(worst, std::fabs(sum - c[i * N + j]));
    }
  CHECK(worst < 1e-4, std::to_string(worst));
}
