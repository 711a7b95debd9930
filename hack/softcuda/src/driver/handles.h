// Handles that cannot be mistaken: each is an address that was never given out before
// and never will be again, in a region that nobody can read or write. So a handle that
// was destroyed, or is of another kind, or was never one, is told for what it is, and a
// program that dereferences one faults at that place.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace softcuda {

enum class Kind : uint8_t { none, context, module, function, stream, event, graph, node, exec, pool };

// Object is anything with a handle.
struct Object {
  virtual ~Object() = default;
  void* handle = nullptr;
};

// Handles is guarded by the driver's lock.
class Handles {
 public:
  Handles();

  // add gives the object its handle.
  template <class T>
  void add(const std::shared_ptr<T>& object) {
    object->handle = add(T::kKind, object);
  }
  // get gives the live object, or null when handle is none of this kind.
  template <class T>
  std::shared_ptr<T> get(const void* handle) const {
    auto found = live_.find(handle);
    if (found == live_.end() || kind(handle) != T::kKind) return nullptr;
    return std::static_pointer_cast<T>(found->second);
  }
  void remove(const void* handle) { live_.erase(handle); }
  // explain says why handle is no live one of `wanted`: "0x… is a stream that was destroyed".
  std::string explain(Kind wanted, const void* handle) const;
  Kind kind(const void* handle) const;

 private:
  void* add(Kind, std::shared_ptr<Object>);

  uintptr_t region_ = 0;
  std::vector<Kind> given_;  // by index: what each handle is or was
  std::unordered_map<const void*, std::shared_ptr<Object>> live_;
};

}  // namespace softcuda
