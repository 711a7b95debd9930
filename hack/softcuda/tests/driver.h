// What the tests of the driver share: each test runs in a process of its own, with the
// knobs that it names, and ends at its first failure.
#pragma once

#include <cuda.h>
#include <softcuda.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

struct Test {
  const char* name;
  std::vector<const char*> knobs;  // "NAME=value"
  void (*body)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

struct Register {
  Register(const char* name, std::vector<const char*> knobs, void (*body)()) {
    tests().push_back({name, std::move(knobs), body});
  }
};

// TEST(name, "KNOB=value", …) { … }
#define TEST(name, ...)                                        \
  static void name();                                          \
  static Register registered_##name(#name, {__VA_ARGS__}, name); \
  static void name()

inline void failed(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: %s\n  last fault: %s\n", file, line, what.c_str(), softcudaLastFault());
  std::_Exit(1);
}

#define CHECK(condition)                                            \
  do {                                                              \
    if (!(condition)) failed(__FILE__, __LINE__, #condition " is not so"); \
  } while (false)

#define SAME(have, want)                                                                                       \
  do {                                                                                                         \
    auto have_ = (have);                                                                                       \
    decltype(have_) want_ = (want);                                                                            \
    if (have_ != want_)                                                                                        \
      failed(__FILE__, __LINE__, std::string(#have " is ") + std::to_string(have_) + ", not " + std::to_string(want_)); \
  } while (false)

// The call must give the error, and the driver must have said why in these words.
#define GIVES(error, call, words)                                                                      \
  do {                                                                                                 \
    CUresult result_ = (call);                                                                         \
    if (result_ != (error))                                                                            \
      failed(__FILE__, __LINE__, std::string(#call " gave ") + std::to_string(result_) + ", not " #error); \
    if (!std::strstr(softcudaLastFault(), words))                                                      \
      failed(__FILE__, __LINE__, #call " did not say \"" words "\"");                                  \
  } while (false)

#define OK(call)                                                                                        \
  do {                                                                                                  \
    CUresult result_ = (call);                                                                          \
    if (result_ != CUDA_SUCCESS) failed(__FILE__, __LINE__, std::string(#call " gave ") + std::to_string(result_)); \
  } while (false)

// A context on device 0, current on this thread.
inline CUcontext start() {
  OK(cuInit(0));
  CUcontext context = nullptr;
  OK(cuCtxCreate(&context, 0, 0));
  return context;
}

inline std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// A file name of this process's own.
inline std::string scratch(const char* name) {
  const char* folder = std::getenv("TMPDIR");
  return std::string(folder ? folder : "/tmp") + "/softcuda-" + name + "-" + std::to_string(getpid());
}

// Kernels of the tests, written by hand.
inline constexpr const char* kPtx = R"(
.version 7.0
.target sm_80
.address_size 64

.visible .global .align 4 .b8 table[64];
.visible .const .align 4 .u32 three = 3;

// c[i] = a[i] + b[i]
.visible .entry vector_add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
  .reg .pred %p;
  .reg .b32 %r<8>;
  .reg .f32 %f<4>;
  .reg .b64 %rd<12>;
  ld.param.u64 %rd1, [a];
  ld.param.u64 %rd2, [b];
  ld.param.u64 %rd3, [c];
  ld.param.u32 %r1, [n];
  mov.u32 %r2, %ctaid.x;
  mov.u32 %r3, %ntid.x;
  mov.u32 %r4, %tid.x;
  mad.lo.s32 %r5, %r2, %r3, %r4;
  setp.ge.s32 %p, %r5, %r1;
  @%p bra DONE;
  cvta.to.global.u64 %rd1, %rd1;
  cvta.to.global.u64 %rd2, %rd2;
  cvta.to.global.u64 %rd3, %rd3;
  mul.wide.s32 %rd4, %r5, 4;
  add.s64 %rd5, %rd1, %rd4;
  add.s64 %rd6, %rd2, %rd4;
  add.s64 %rd7, %rd3, %rd4;
  ld.global.f32 %f1, [%rd5];
  ld.global.f32 %f2, [%rd6];
  add.f32 %f3, %f1, %f2;
  st.global.f32 [%rd7], %f3;
DONE:
  ret;
}

// *out = a value of each size, so that offsets of parameters matter
.visible .entry mixed(.param .u8 a, .param .u16 b, .param .u32 c, .param .u64 d, .param .u64 out)
{
  .reg .b16 %h<4>;
  .reg .b32 %r<8>;
  .reg .b64 %rd<8>;
  ld.param.u8 %h1, [a];
  ld.param.u16 %h2, [b];
  ld.param.u32 %r1, [c];
  ld.param.u64 %rd1, [d];
  ld.param.u64 %rd2, [out];
  cvt.u64.u16 %rd3, %h1;
  cvt.u64.u16 %rd4, %h2;
  cvt.u64.u32 %rd5, %r1;
  add.s64 %rd1, %rd1, %rd3;
  add.s64 %rd1, %rd1, %rd4;
  add.s64 %rd1, %rd1, %rd5;
  st.global.u64 [%rd2], %rd1;
  ret;
}

// *p += k, by one thread
.visible .entry add_to(.param .u64 p, .param .u32 k)
{
  .reg .b32 %r<4>;
  .reg .b64 %rd<2>;
  ld.param.u64 %rd1, [p];
  ld.param.u32 %r1, [k];
  ld.global.u32 %r2, [%rd1];
  add.s32 %r2, %r2, %r1;
  st.global.u32 [%rd1], %r2;
  ret;
}

// *p *= 2, by one thread
.visible .entry twice(.param .u64 p)
{
  .reg .b32 %r<4>;
  .reg .b64 %rd<2>;
  ld.param.u64 %rd1, [p];
  ld.global.u32 %r2, [%rd1];
  add.s32 %r2, %r2, %r2;
  st.global.u32 [%rd1], %r2;
  ret;
}

.extern .shared .align 16 .b8 scratch[];

// Writes the last word of `bytes` of dynamic shared memory and gives it back in *out.
.visible .entry use_shared(.param .u64 out, .param .u32 bytes)
{
  .reg .b32 %r<6>;
  .reg .b64 %rd<2>;
  ld.param.u64 %rd1, [out];
  ld.param.u32 %r1, [bytes];
  mov.u32 %r2, scratch;
  add.s32 %r2, %r2, %r1;
  st.shared.u32 [%r2+-4], %r1;
  ld.shared.u32 %r3, [%r2+-4];
  st.global.u32 [%rd1], %r3;
  ret;
}

.visible .entry bounded() .maxntid 64, 1, 1
{
  ret;
}

.visible .entry exactly() .reqntid 32, 2, 1
{
  ret;
}
)";

struct Kernels {
  CUmodule module = nullptr;
  CUfunction operator[](const char* name) const {
    CUfunction f = nullptr;
    OK(cuModuleGetFunction(&f, module, name));
    return f;
  }
};

inline Kernels load() {
  Kernels k;
  OK(cuModuleLoadData(&k.module, kPtx));
  return k;
}

template <class... Parameters>
CUresult launch(CUfunction f, unsigned grid, unsigned block, unsigned shared, CUstream stream, Parameters... parameters) {
  void* pointers[] = {static_cast<void*>(&parameters)..., nullptr};
  return cuLaunchKernel(f, grid, 1, 1, block, 1, 1, shared, stream, pointers, nullptr);
}

// A word of device memory.
struct Word {
  CUdeviceptr address = 0;
  explicit Word(unsigned value) {
    OK(cuMemAlloc(&address, 4));
    OK(cuMemsetD32(address, value, 1));
  }
  unsigned get() const {
    unsigned value = 0;
    OK(cuMemcpyDtoH(&value, address, 4));
    return value;
  }
};

// Runs each test, or those named, and says which failed.
int main(int count, char** names) {
  int bad = 0, ran = 0;
  for (const Test& test : tests()) {
    bool wanted = count == 1;
    for (int i = 1; i < count; i++) wanted |= std::strcmp(names[i], test.name) == 0;
    if (!wanted) continue;
    ran++;
    std::fflush(nullptr);
    pid_t child = fork();
    if (child == 0) {
      for (const char* knob : test.knobs) putenv(const_cast<char*>(knob));
      test.body();
      std::exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    bool good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (good) continue;
    bad++;
    std::fprintf(stderr, "FAIL %s", test.name);
    if (WIFSIGNALED(status)) std::fprintf(stderr, ": signal %d", WTERMSIG(status));
    std::fputs("\n", stderr);
  }
  std::printf("%s: %d of %d tests passed\n", names[0], ran - bad, ran);
  return bad || !ran ? 1 : 0;
}
