#include "handles.h"

#include <sys/mman.h>

#include <cstdio>
#include <new>

namespace softcuda {
namespace {

constexpr size_t kRegion = size_t{16} << 30;
constexpr size_t kStride = 64;

const char* name(Kind kind) {
  switch (kind) {
    case Kind::none: return "nothing";
    case Kind::context: return "a context";
    case Kind::module: return "a module";
    case Kind::function: return "a function";
    case Kind::stream: return "a stream";
    case Kind::event: return "an event";
    case Kind::graph: return "a graph";
    case Kind::node: return "a graph's node";
    case Kind::exec: return "an executable graph";
    case Kind::pool: return "a memory pool";
  }
  return "nothing";
}

}  // namespace

Handles::Handles() {
  void* region = mmap(nullptr, kRegion, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (region == MAP_FAILED) throw std::bad_alloc();
  region_ = reinterpret_cast<uintptr_t>(region);
}

void* Handles::add(Kind kind, std::shared_ptr<Object> object) {
  if (given_.size() >= kRegion / kStride) throw std::bad_alloc();
  void* handle = reinterpret_cast<void*>(region_ + given_.size() * kStride);
  given_.push_back(kind);
  live_.emplace(handle, std::move(object));
  return handle;
}

Kind Handles::kind(const void* handle) const {
  uintptr_t offset = reinterpret_cast<uintptr_t>(handle) - region_;
  if (offset % kStride || offset / kStride >= given_.size()) return Kind::none;
  return given_[offset / kStride];
}

std::string Handles::explain(Kind wanted, const void* handle) const {
  char text[160];
  if (!handle) {
    std::snprintf(text, sizeof text, "a null handle was given for %s", name(wanted));
    return text;
  }
  Kind is = kind(handle);
  if (is == Kind::none) {
    std::snprintf(text, sizeof text, "%p was never a handle of this driver; %s is wanted", handle, name(wanted));
  } else if (is != wanted) {
    std::snprintf(text, sizeof text, "%p is %s; %s is wanted", handle, name(is), name(wanted));
  } else {
    std::snprintf(text, sizeof text, "%p is %s that was destroyed", handle, name(is));
  }
  return text;
}

}  // namespace softcuda
