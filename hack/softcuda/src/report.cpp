#include "report.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

#include "../include/softcuda.h"

namespace softcuda {
namespace {

constexpr uint64_t kShownOfAKind = 20;

struct Reports {
  std::mutex lock;
  std::string last;
  std::map<std::string, uint64_t> counts;
  std::string log;
  Reports() {
    if (const char* path = std::getenv("SOFTCUDA_LOG")) log = replace_pid(path);
  }
};

// Never destroyed: a thread may still report while the process ends.
Reports& reports() {
  static Reports* r = new Reports;
  return *r;
}

void append(const std::string& path, const std::string& line) {
  int file = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file < 0 || write(file, line.data(), line.size()) != ssize_t(line.size())) {
    std::fprintf(stderr, "softcuda: SOFTCUDA_LOG=%s cannot be written: %m\n", path.c_str());
  }
  if (file >= 0) close(file);
}

}  // namespace

std::string replace_pid(std::string path) {
  size_t at = path.find("%p");
  if (at != std::string::npos) path.replace(at, 2, std::to_string(getpid()));
  return path;
}

void report(const Fault& fault) {
  std::string text = describe(fault);
  Reports& r = reports();
  std::lock_guard<std::mutex> guard(r.lock);
  r.last = text;
  uint64_t count = ++r.counts[fault.kind];
  std::string line = "softcuda: " + text + "\n";
  if (!r.log.empty()) append(r.log, line);
  if (fault.kind == kind::api || fault.kind == kind::injected || count > kShownOfAKind) return;
  if (count == kShownOfAKind) line += "softcuda: " + fault.kind + ": further ones are counted and logged, not shown\n";
  std::fputs(line.c_str(), stderr);
}

void report(const char* kind, int error, std::string text) {
  Fault fault;
  fault.kind = kind;
  fault.error = error;
  fault.text = std::move(text);
  report(fault);
}

std::string last_fault() {
  Reports& r = reports();
  std::lock_guard<std::mutex> guard(r.lock);
  return r.last;
}

uint64_t fault_count(const std::string& kind) {
  Reports& r = reports();
  std::lock_guard<std::mutex> guard(r.lock);
  if (!kind.empty()) {
    auto found = r.counts.find(kind);
    return found == r.counts.end() ? 0 : found->second;
  }
  uint64_t all = 0;
  for (const auto& [name, count] : r.counts) all += count;
  return all;
}

}  // namespace softcuda

extern "C" __attribute__((visibility("default"))) const char* softcudaLastFault(void) {
  thread_local std::string text;
  text = softcuda::last_fault();
  return text.c_str();
}

extern "C" __attribute__((visibility("default"))) unsigned long long softcudaFaultCount(const char* kind) {
  return softcuda::fault_count(kind ? kind : "");
}
