#include "config.h"

#include <charconv>
#include <cstdlib>
#include <sstream>
#include <string_view>
#include <thread>

#include "../report.h"

namespace softcuda {
namespace {

// The whole of text as a number from low to high; false otherwise.
template <class Number>
bool number(std::string_view text, Number low, Number high, Number* out) {
  Number value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < low || value > high) return false;
  *out = value;
  return true;
}

template <class Number>
void knob(Config* c, const char* name, Number low, Number high, Number* out) {
  const char* text = std::getenv(name);
  if (!text || !*text || number<Number>(text, low, high, out)) return;
  std::ostringstream why;
  why << name << "=" << text << " is not a whole number from " << low << " to " << high;
  c->error = why.str();
}

void flag(Config* c, const char* name, bool* out) {
  int value = 0;
  knob<int>(c, name, 0, 1, &value);
  *out = value == 1;
}

void capability(Config* c) {
  const char* text = std::getenv("SOFTCUDA_CAPABILITY");
  if (!text || !*text) return;
  std::string_view view(text);
  size_t dot = view.find('.');
  if (dot == std::string_view::npos || !number<int>(view.substr(0, dot), 8, 9, &c->major) ||
      !number<int>(view.substr(dot + 1), 0, 9, &c->minor)) {
    c->error = "SOFTCUDA_CAPABILITY=" + std::string(view) + " is not a capability from 8.0 to 9.9, such as 9.0";
  }
}

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, at);) parts.push_back(part);
  return parts;
}

bool injection(const std::string& text, Injection* out) {
  std::vector<std::string> parts = split(text, ':');
  if (parts.size() != 3 && !(parts.size() == 4 && parts[3] == "sticky")) return false;
  out->entry = parts[0];
  out->sticky = parts.size() == 4;
  return !out->entry.empty() && number<uint64_t>(parts[1], 1, UINT64_MAX, &out->call) &&
         number<int>(parts[2], 1, 999, &out->error);
}

void injections(Config* c) {
  const char* text = std::getenv("SOFTCUDA_FAIL");
  if (!text) return;
  for (const std::string& part : split(text, ',')) {
    Injection one;
    if (!injection(part, &one)) {
      c->error = "SOFTCUDA_FAIL: \"" + part + "\" is not ENTRY:CALL:ERROR or ENTRY:CALL:ERROR:sticky";
      return;
    }
    c->injections.push_back(one);
  }
}

}  // namespace

Config read_config() {
  Config c;
  unsigned cores = std::thread::hardware_concurrency();
  c.threads = cores ? cores : 1;
  knob<int>(&c, "SOFTCUDA_DEVICES", 0, 64, &c.devices);
  knob<size_t>(&c, "SOFTCUDA_MEMORY", size_t{1} << 20, size_t{1} << 40, &c.memory);
  knob<int>(&c, "SOFTCUDA_DRIVER_VERSION", 11000, 99999, &c.driver_version);
  knob<unsigned>(&c, "SOFTCUDA_THREADS", 1, 1024, &c.threads);
  flag(&c, "SOFTCUDA_STRICT", &c.strict);
  flag(&c, "CUDA_LAUNCH_BLOCKING", &c.blocking);
  capability(&c);
  injections(&c);
  if (const char* path = std::getenv("SOFTCUDA_CALLS")) c.calls = replace_pid(path);
  if (const char* path = std::getenv("SOFTCUDA_COUNTERS")) c.counters = replace_pid(path);
  return c;
}

const Config& config() {
  static const Config* c = new Config(read_config());
  return *c;
}

}  // namespace softcuda
