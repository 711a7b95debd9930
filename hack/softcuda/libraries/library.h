// What the stand-ins for NVIDIA's libraries share: calls that SOFTCUDA_FAIL makes fail,
// and handles that are known or are not.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <string>

#define LIBRARY_API extern "C" __attribute__((visibility("default")))

namespace softcuda {

// injected gives the error that SOFTCUDA_FAIL=ENTRY:N:ERROR has for this call of an
// entry, 0 for none; with :sticky for it and each later one. The driver reads the same
// variable, and checks it.
inline int injected(const char *entry) {
  static std::mutex lock;
  static std::map<std::string, uint64_t> calls;
  std::lock_guard<std::mutex> guard(lock);
  const uint64_t call = ++calls[entry];
  const char *text = std::getenv("SOFTCUDA_FAIL");
  std::istringstream all(text ? text : "");
  for (std::string one; std::getline(all, one, ',');) {
    std::istringstream parts(one);
    std::string name, nth, error, sticky;
    std::getline(parts, name, ':') && std::getline(parts, nth, ':') && std::getline(parts, error, ':') && std::getline(parts, sticky, ':');
    const uint64_t n = std::strtoull(nth.c_str(), nullptr, 10);
    if (name == entry && (call == n || (sticky == "sticky" && call > n))) return std::atoi(error.c_str());
  }
  return 0;
}

// Known objects of a kind. Whatever else is passed as one is told, and not followed.
template <class T>
class Known {
 public:
  void *add(std::unique_ptr<T> object) {
    std::lock_guard<std::mutex> guard(lock_);
    void *handle = object.get();
    objects_[handle] = std::move(object);
    return handle;
  }
  T *find(void *handle) {
    std::lock_guard<std::mutex> guard(lock_);
    auto found = objects_.find(handle);
    return found == objects_.end() ? nullptr : found->second.get();
  }
  std::unique_ptr<T> remove(void *handle) {
    std::lock_guard<std::mutex> guard(lock_);
    auto found = objects_.find(handle);
    if (found == objects_.end()) return nullptr;
    std::unique_ptr<T> object = std::move(found->second);
    objects_.erase(found);
    return object;
  }

 private:
  std::mutex lock_;
  std::map<void *, std::unique_ptr<T>> objects_;
};

}  // namespace softcuda
