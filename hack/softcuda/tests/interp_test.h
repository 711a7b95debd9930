// What the interpreter's tests share: a registry, checks that count, and a machine to
// run PTX on.
#pragma once

#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "exec/exec.h"

namespace softtest {

struct Test {
  const char* name;
  void (*run)();
};
std::vector<Test>& tests();
struct Register {
  Register(const char* name, void (*run)()) { tests().push_back({name, run}); }
};
#define TEST(name)                                      \
  static void name();                                   \
  static softtest::Register register_##name(#name, name); \
  static void name()

// fail counts a failure and prints it.
void fail(const char* file, int line, const std::string& text);
#define CHECK(condition, text) \
  do {                         \
    if (!(condition)) softtest::fail(__FILE__, __LINE__, std::string(#condition) + ": " + (text)); \
  } while (0)

std::string hex(uint64_t v);
inline uint32_t f32(float f) { return std::bit_cast<uint32_t>(f); }
inline uint64_t f64(double d) { return std::bit_cast<uint64_t>(d); }
inline float as_f32(uint32_t b) { return std::bit_cast<float>(b); }
inline uint32_t pair(uint32_t low, uint32_t high) { return low | high << 16; }

// Machine is a device with one module loaded.
class Machine {
 public:
  Machine() : memory(64 << 20) {}
  // load gives false, and the error in `error`, for text that does not parse.
  bool load(const std::string& ptx, int sm = 90);
  template <class T>
  uint64_t upload(const std::vector<T>& v) {
    uint64_t at = memory.allocate(v.size() * sizeof(T));
    std::string why;
    memory.write(at, v.data(), v.size() * sizeof(T), &why);
    return at;
  }
  // download says in `error` which bytes nothing wrote, if any.
  template <class T>
  std::vector<T> download(uint64_t at, size_t n) {
    std::vector<T> v(n);
    error.clear();
    memory.read(v.data(), at, n * sizeof(T), &error);
    return v;
  }
  uint64_t empty(size_t bytes) { return memory.allocate(bytes); }
  // run launches a kernel with 8-byte arguments, each cut to its parameter's size.
  bool run(const std::string& kernel, softcuda::Dim3 grid, softcuda::Dim3 block, size_t shared, const std::vector<uint64_t>& args, unsigned threads = 1);

  softcuda::Memory memory;
  std::unique_ptr<softcuda::Program> program;
  softcuda::Fault fault;
  softcuda::Counters counters;
  std::string error;
};

// header is .version, .target and .address_size.
extern const char* const kHeader;

// lanes runs a body of PTX once in each of `threads` threads of one block and gives
// what each left in %R (64 bits). Registers: %t is the thread; %A, %B, %C hold 64 bits
// of inputs, %a, %b, %c the low 32 and %ha, %hb, %hc the low 16 of these; results are
// left in %R, %r or %h, as `result` bits say (64, 32 or 16; 1 for the predicate %p).
struct Inputs {
  uint64_t a = 0, b = 0, c = 0;
};
std::vector<uint64_t> lanes(const std::string& body, int result, const std::vector<Inputs>& in, Machine* keep = nullptr);
// one is lanes for one thread's inputs; it runs a whole warp and a part of one, and
// checks that lanes agree.
uint64_t one(const std::string& body, int result, Inputs in);

}  // namespace softtest
