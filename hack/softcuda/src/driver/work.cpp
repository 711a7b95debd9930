// Doing a stream's work, or capturing it.
#include "work.h"

#include "capture.h"
#include "graph.h"

namespace softcuda {
namespace {

// Runs a host function as the driver does: it may not call the driver.
void call_host(const HostCall& host, std::unique_lock<std::mutex>& execution) {
  execution.unlock();
  this_thread().in_callback = true;
  host.fn(host.userData);
  this_thread().in_callback = false;
  execution.lock();
}

}  // namespace

GraphMemory::~GraphMemory() {
  if (address) device->memory->free(address);
}

CUresult enqueue(Call& call, const std::shared_ptr<Stream>& stream, Work work) {
  if (stream->capture) return capture_node(call, *stream, std::move(work));
  if (stream->role == Stream::Role::legacy) SOFTCUDA_TRY(refuse_legacy(call));
  std::shared_ptr<Context> context = call.context;
  call.lock.unlock();
  std::unique_lock<std::mutex> execution(context->device->execution);
  return perform(call, *context, work, execution);
}

CUresult perform(Call& call, Context& context, const Work& work, std::unique_lock<std::mutex>& execution) {
  if (const auto* launch = std::get_if<Launch>(&work)) return perform_launch(call, context, *launch);
  if (const auto* copy = std::get_if<Copy>(&work)) return perform_copy(call, context, *copy);
  if (const auto* set = std::get_if<Set>(&work)) return perform_set(call, context, *set);
  if (const auto* host = std::get_if<HostCall>(&work)) call_host(*host, execution);
  if (const auto* allocate = std::get_if<Allocate>(&work)) allocate->memory->live = true;
  if (const auto* free = std::get_if<Free>(&work)) {
    if (!free->memory->live.exchange(false)) {
      return call.fail(CUDA_ERROR_INVALID_VALUE,
                       "the graph frees memory " + hex(free->memory->address) + " that is not allocated");
    }
  }
  if (const auto* record = std::get_if<RecordEvent>(&work)) {
    std::lock_guard<std::mutex> guard(driver().lock);
    record->event->recorded = true;
    record->event->time = std::chrono::steady_clock::now();
  }
  return CUDA_SUCCESS;  // waiting for an event: all earlier work is done
}

}  // namespace softcuda
