// The interpreter's tests. Arguments, if any, choose tests by a part of their name.
#include <chrono>

#include "interp_test.h"

namespace softtest {

namespace {
int failures = 0;
const char* running = "";
}  // namespace

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

void fail(const char* file, int line, const std::string& text) {
  failures++;
  if (failures <= 100) fprintf(stderr, "%s:%d: %s: %s\n", file, line, running, text.c_str());
}

std::string hex(uint64_t v) {
  char text[24];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
  return text;
}

const char* const kHeader = ".version 8.4\n.target sm_80\n.address_size 64\n";

bool Machine::load(const std::string& ptx, int sm) {
  program.reset();
  program = softcuda::Program::parse(ptx, sm, memory, &error);
  return program != nullptr;
}

bool Machine::run(const std::string& kernel, softcuda::Dim3 grid, softcuda::Dim3 block, size_t shared, const std::vector<uint64_t>& args, unsigned threads) {
  auto* info = program ? program->kernel(kernel) : nullptr;
  if (!info) {
    fault.text = "no kernel " + kernel;
    return false;
  }
  std::vector<uint8_t> params(info->param_bytes + 8);
  for (size_t i = 0; i < args.size() && i < info->param_offsets.size(); i++) memcpy(&params[info->param_offsets[i]], &args[i], std::min<size_t>(8, info->param_sizes[i]));
  counters = {};
  return softcuda::run(*program, *info, grid, block, shared, params.data(), memory, threads, &counters, &fault);
}

std::vector<uint64_t> lanes(const std::string& body, int result, const std::vector<Inputs>& in, Machine* keep) {
  const char* move = result == 64 ? "" : result == 32 ? "cvt.u64.u32 %R, %r;\n" : result == 16 ? "cvt.u64.u16 %R, %h;\n" : "selp.b64 %R, 1, 0, %p;\n";
  std::string ptx = std::string(kHeader) +
                    ".visible .entry t(.param .u64 in, .param .u64 out) {\n"
                    ".reg .b64 %A, %B, %C, %R, %S, %T, %in, %out, %x<8>;\n.reg .b32 %a, %b, %c, %r, %s, %t, %y<16>;\n.reg .b16 %ha, %hb, %hc, %h, %z<8>;\n.reg .pred %p, %q, %o<4>;\n"
                    "mov.u32 %t, %tid.x;\nld.param.u64 %in, [in];\nld.param.u64 %out, [out];\n"
                    "mad.wide.u32 %in, %t, 24, %in;\nmad.wide.u32 %out, %t, 8, %out;\n"
                    "ld.global.u64 %A, [%in];\nld.global.u64 %B, [%in+8];\nld.global.u64 %C, [%in+16];\n"
                    "cvt.u32.u64 %a, %A;\ncvt.u32.u64 %b, %B;\ncvt.u32.u64 %c, %C;\n"
                    "cvt.u16.u64 %ha, %A;\ncvt.u16.u64 %hb, %B;\ncvt.u16.u64 %hc, %C;\n" +
                    body + "\n" + move + "st.global.u64 [%out], %R;\nret;\n}\n";
  Machine own;
  Machine& m = keep ? *keep : own;
  if (!m.load(ptx)) {
    fail(__FILE__, __LINE__, m.error + " in " + body);
    return std::vector<uint64_t>(in.size(), 0xdeaddeaddeaddead);
  }
  uint64_t from = m.upload(in), to = m.empty(8 * in.size());
  if (!m.run("t", {1}, {static_cast<unsigned>(in.size())}, 0, {from, to})) {
    if (!keep) fail(__FILE__, __LINE__, softcuda::describe(m.fault) + " in " + body);
    return std::vector<uint64_t>(in.size(), 0xdeaddeaddeaddead);
  }
  return m.download<uint64_t>(to, in.size());
}

uint64_t one(const std::string& body, int result, Inputs in) {
  auto whole = lanes(body, result, std::vector<Inputs>(32, in));
  auto part = lanes(body, result, std::vector<Inputs>(5, in));
  for (uint64_t v : whole) CHECK(v == whole[0], "lanes disagree: " + body);
  for (uint64_t v : part) CHECK(v == whole[0], "a part of a warp gives " + hex(v) + ", the whole " + hex(whole[0]) + ": " + body);
  return whole[0];
}

}  // namespace softtest

int main(int argc, char** argv) {
  using namespace softtest;
  int ran = 0;
  for (auto& t : tests()) {
    bool chosen = argc == 1;
    for (int i = 1; i < argc; i++) chosen |= std::string(t.name).find(argv[i]) != std::string::npos;
    if (!chosen) continue;
    running = t.name;
    int before = failures;
    auto start = std::chrono::steady_clock::now();
    t.run();
    double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    printf("%s %s (%.0f ms)\n", failures == before ? "ok  " : "FAIL", t.name, ms);
    ran++;
  }
  printf("%d tests, %d failures\n", ran, failures);
  return failures || !ran ? 1 : 0;
}
