#include "entry.h"

#include <new>
#include <stdexcept>

#include "../report.h"
#include "counters.h"
#include "errors.h"
#include "objects.h"

namespace softcuda {
namespace {

Entry entries[size_t(EntryId::count)] = {
#define ENTRY(symbol, base, since) {#symbol},
#include "entries.inc"
#undef ENTRY
};

std::atomic<uint64_t> all_calls{0};

void tell(const char* entry, CUresult error, const std::string& why) {
  report(kind::api, error, std::string(entry) + " gave " + error_name(error) + (why.empty() ? "" : ": " + why));
}

// The current context, if it may be used: its error otherwise.
CUresult usable(Call& call, std::shared_ptr<Context>* out) {
  Thread& thread = this_thread();
  if (thread.contexts.empty()) {
    return call.fail(CUDA_ERROR_INVALID_CONTEXT, "no context is current on this thread; cuCtxSetCurrent it first");
  }
  const std::shared_ptr<Context>& context = thread.contexts.back();
  if (context->destroyed) {
    return call.fail(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context that is current on this thread was destroyed");
  }
  *out = context;
  return CUDA_SUCCESS;
}

}  // namespace

Entry& entry(EntryId id) { return entries[size_t(id)]; }

void for_each_entry(const std::function<void(const Entry&)>& visit) {
  for (const Entry& one : entries) visit(one);
}

CUresult Entry::injected() {
  uint64_t own = calls.fetch_add(1) + 1, any = all_calls.fetch_add(1) + 1;
  note_call(*this, own);
  CUresult result = CUDA_SUCCESS;
  for (const Injection& one : config().injections) {
    bool every = one.entry == "*";
    if (!every && one.entry != name) continue;
    uint64_t count = every ? any : own;
    if (one.sticky ? count < one.call : count != one.call) continue;
    result = CUresult(one.error);
    if (one.sticky) driver().lost = one.error;
    report(kind::injected, one.error,
           "call " + std::to_string(count) + (every ? " of all entries, " : " of ") + name + " gave " +
               error_name(result) + ", as SOFTCUDA_FAIL says");
  }
  return result;
}

CUresult Entry::call(Needs needs, const Body& body) { return guarded(needs, false, body); }
CUresult Entry::releasing(Needs needs, const Body& body) { return guarded(needs, true, body); }

CUresult Entry::guarded(Needs needs, bool releases, const Body& body) try {
  if (!config().error.empty()) {
    tell(name, CUDA_ERROR_INVALID_VALUE, config().error);
    return CUDA_ERROR_INVALID_VALUE;
  }
  CUresult earlier = injected();
  if (earlier != CUDA_SUCCESS && !releases) return earlier;
  Call call;
  call.entry = name;
  auto failed = [&](CUresult error) {
    tell(name, error, call.why);
    return error;
  };
  if (this_thread().in_callback && needs != Needs::nothing) {
    call.why = "a host function that a stream runs may not call the driver";
    return failed(CUDA_ERROR_NOT_PERMITTED);
  }
  call.lock = std::unique_lock<std::mutex>(driver().lock);
  if (needs != Needs::nothing && !driver().initialised) {
    call.why = "cuInit was not called, or failed";
    return failed(CUDA_ERROR_NOT_INITIALIZED);
  }
  if (needs == Needs::context) {
    CUresult result = usable(call, &call.context);
    if (result != CUDA_SUCCESS) return failed(result);
    int lost = driver().lost ? driver().lost.load() : call.context->error.load();
    call.doomed = lost != 0;
    if (lost && earlier == CUDA_SUCCESS) {
      earlier = CUresult(lost);
      tell(name, earlier, "an earlier fault of the context sticks to it until it is destroyed");
    }
  }
  CUresult result = earlier == CUDA_SUCCESS || releases ? body(call) : earlier;
  if (earlier != CUDA_SUCCESS) return earlier;
  return result == CUDA_SUCCESS ? result : failed(result);
} catch (const std::bad_alloc&) {
  tell(name, CUDA_ERROR_OUT_OF_MEMORY, "host memory ran out");
  return CUDA_ERROR_OUT_OF_MEMORY;
} catch (const std::exception& error) {
  tell(name, CUDA_ERROR_UNKNOWN, error.what());
  return CUDA_ERROR_UNKNOWN;
}

}  // namespace softcuda
