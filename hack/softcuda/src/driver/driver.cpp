// The driver's one state, and finding what handles mean.
#include <cstdio>

#include "objects.h"

namespace softcuda {

Driver& driver() {
  static Driver* d = new Driver;
  return *d;
}

Thread& this_thread() {
  thread_local Thread t;
  return t;
}

std::string hex(uint64_t value) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

Device* find_device(Call& call, CUdevice ordinal) {
  auto& devices = driver().devices;
  if (ordinal >= 0 && size_t(ordinal) < devices.size()) return devices[ordinal].get();
  call.why = "device " + std::to_string(ordinal) + " of " + std::to_string(devices.size()) + " devices";
  return nullptr;
}

std::shared_ptr<Stream> find_stream(Call& call, CUstream handle) {
  Context& context = *call.context;
  if (!handle || handle == CU_STREAM_LEGACY) return context.legacy;
  if (handle == CU_STREAM_PER_THREAD) {
    std::shared_ptr<Stream>& stream = context.per_thread[std::this_thread::get_id()];
    if (!stream) {
      stream = std::make_shared<Stream>();
      stream->role = Stream::Role::per_thread;
      stream->context = call.context;
      stream->id = driver().next_id++;
    }
    return stream;
  }
  std::shared_ptr<Stream> stream = find<Stream>(call, handle);
  if (stream && stream->context.lock() != call.context) {
    call.why = "stream " + hex(uintptr_t(handle)) + " belongs to another context than the current one";
    return nullptr;
  }
  return stream;
}

}  // namespace softcuda
