// Streams and events.
#include <algorithm>

#include "capture.h"
#include "graph.h"
#include "objects.h"
#include "work.h"

using namespace softcuda;

namespace {

// An entry about a stream, a default one too.
CUresult stream_call(Entry& entry, CUstream handle, const std::function<CUresult(Call&, const std::shared_ptr<Stream>&)>& body) {
  return entry.call(Needs::context, [&](Call& call) {
    std::shared_ptr<Stream> stream = find_stream(call, handle);
    return stream ? body(call, stream) : CUDA_ERROR_INVALID_HANDLE;
  });
}

CUresult event_call(Entry& entry, CUevent handle, const std::function<CUresult(Call&, const std::shared_ptr<Event>&)>& body) {
  return entry.call(Needs::context, [&](Call& call) {
    std::shared_ptr<Event> event = find<Event>(call, handle);
    return event ? body(call, event) : CUDA_ERROR_INVALID_HANDLE;
  });
}

CUresult create_stream(Call& call, CUstream* out, unsigned flags, int priority) {
  SOFTCUDA_TRY(need(call, out, "phStream"));
  if (flags & ~unsigned(CU_STREAM_NON_BLOCKING)) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "stream flags " + hex(flags) + " are not valid");
  }
  auto stream = std::make_shared<Stream>();
  stream->context = call.context;
  stream->flags = flags;
  stream->priority = std::clamp(priority, kGreatestPriority, kLeastPriority);
  stream->id = driver().next_id++;
  driver().handles.add(stream);
  call.context->handles.insert(stream->handle);
  *out = static_cast<CUstream>(stream->handle);
  return CUDA_SUCCESS;
}

// Waits for what the device does now; all work is done when it was enqueued.
CUresult wait(Call& call) {
  std::shared_ptr<Context> context = call.context;
  call.lock.unlock();
  std::lock_guard<std::mutex> work(context->device->execution);
  return context->error ? call.fail(CUresult(context->error.load()), "a kernel faulted") : CUDA_SUCCESS;
}

CUresult refuse_captured_event(Call& call, const Event& event) {
  if (!event.capture) return CUDA_SUCCESS;
  event.capture->invalid = true;
  return call.fail(CUDA_ERROR_CAPTURED_EVENT, "the event was last recorded in a capture, which is invalid now");
}

// Asking whether an event has happened, or waiting for it.
CUresult look_at_event(Call& call, const Event& event) {
  SOFTCUDA_TRY(refuse_captured_event(call, event));
  SOFTCUDA_TRY(refuse_unsafe(call));
  return wait(call);
}

CUresult record(Call& call, CUevent event_handle, CUstream stream_handle, unsigned flags) {
  std::shared_ptr<Event> event = find<Event>(call, event_handle);
  if (!event) return CUDA_ERROR_INVALID_HANDLE;
  std::shared_ptr<Stream> stream = find_stream(call, stream_handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (flags & ~unsigned(CU_EVENT_RECORD_EXTERNAL)) return call.fail(CUDA_ERROR_INVALID_VALUE, "flags are not valid");
  if (event->context.lock() != call.context) {
    return call.fail(CUDA_ERROR_INVALID_HANDLE, "the event belongs to another context than the stream");
  }
  if (!stream->capture) {
    if (flags) return call.fail(CUDA_ERROR_INVALID_VALUE, "CU_EVENT_RECORD_EXTERNAL is for captures");
    event->capture = nullptr;
    event->position.clear();
    return enqueue(call, stream, RecordEvent{event});
  }
  if (flags) return capture_node(call, *stream, RecordEvent{event});
  if (stream->capture->invalid) {
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "an earlier error made this stream's capture invalid");
  }
  event->capture = stream->capture;
  event->position = stream->tail;
  return CUDA_SUCCESS;
}

// A stream that is captured, or joins, waits for an event of a capture.
CUresult wait_captured(Call& call, const std::shared_ptr<Stream>& stream, const Event& event) {
  const std::shared_ptr<Capture>& capture = event.capture;
  if (capture->ended) {
    return call.fail(CUDA_ERROR_CAPTURED_EVENT, "the event was recorded in a capture that has ended");
  }
  if (capture->invalid) {
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "an earlier error made the event's capture invalid");
  }
  if (!stream->capture) {
    if (stream->role == Stream::Role::legacy) return refuse_legacy(call);
    join(capture, stream, event.position);
    return CUDA_SUCCESS;
  }
  if (stream->capture != capture) {
    capture->invalid = stream->capture->invalid = true;
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_MERGE, "the event belongs to another capture; both are invalid now");
  }
  for (const auto& node : event.position) {
    if (std::find(stream->tail.begin(), stream->tail.end(), node) == stream->tail.end()) stream->tail.push_back(node);
  }
  return CUDA_SUCCESS;
}

CUresult wait_event(Call& call, CUstream stream_handle, CUevent event_handle, unsigned flags) {
  std::shared_ptr<Stream> stream = find_stream(call, stream_handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  std::shared_ptr<Event> event = find<Event>(call, event_handle);
  if (!event) return CUDA_ERROR_INVALID_HANDLE;
  if (flags & ~unsigned(CU_EVENT_WAIT_EXTERNAL)) return call.fail(CUDA_ERROR_INVALID_VALUE, "flags are not valid");
  if (flags && stream->capture) return capture_node(call, *stream, WaitEvent{event});
  if (event->capture) return wait_captured(call, stream, *event);
  if (stream->capture) {
    stream->capture->invalid = true;
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
                     "a captured stream waits for an event that was recorded outside of the capture; the capture is "
                     "invalid now");
  }
  return enqueue(call, stream, WaitEvent{event});
}

CUresult elapsed(Call& call, float* out, CUevent start_handle, CUevent end_handle) {
  SOFTCUDA_TRY(need(call, out, "pMilliseconds"));
  std::shared_ptr<Event> start = find<Event>(call, start_handle);
  if (!start) return CUDA_ERROR_INVALID_HANDLE;
  std::shared_ptr<Event> end = find<Event>(call, end_handle);
  if (!end) return CUDA_ERROR_INVALID_HANDLE;
  if ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) {
    return call.fail(CUDA_ERROR_INVALID_HANDLE, "an event was made with CU_EVENT_DISABLE_TIMING");
  }
  if (!start->recorded || !end->recorded) {
    return call.fail(CUDA_ERROR_INVALID_HANDLE, "an event was not recorded yet");
  }
  *out = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return CUDA_SUCCESS;
}

// Lets a callback of the old kind run as a host function.
struct OldCallback {
  CUstreamCallback callback;
  CUstream stream;
  void* data;
  static void call(void* self) {
    auto* one = static_cast<OldCallback*>(self);
    one->callback(one->stream, CUDA_SUCCESS, one->data);
  }
};

}  // namespace

// --- Streams.

SOFTCUDA_API CUresult cuStreamCreate(CUstream* out, unsigned int flags) {
  return THIS_ENTRY(cuStreamCreate).call(Needs::context, [&](Call& call) { return create_stream(call, out, flags, 0); });
}

SOFTCUDA_API CUresult cuStreamCreateWithPriority(CUstream* out, unsigned int flags, int priority) {
  return THIS_ENTRY(cuStreamCreateWithPriority).call(Needs::context, [&](Call& call) {
    return create_stream(call, out, flags, priority);
  });
}

SOFTCUDA_API CUresult cuStreamDestroy_v2(CUstream handle) {
  return THIS_ENTRY(cuStreamDestroy_v2).releasing(Needs::context, [&](Call& call) {
    std::shared_ptr<Stream> stream = find<Stream>(call, handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    if (stream->capture) stream->capture->invalid = true;
    if (std::shared_ptr<Context> owner = stream->context.lock()) owner->handles.erase(stream->handle);
    driver().handles.remove(handle);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuStreamGetPriority(CUstream handle, int* priority) {
  return stream_call(THIS_ENTRY(cuStreamGetPriority), handle, [&](Call& call, const std::shared_ptr<Stream>& stream) {
    SOFTCUDA_TRY(need(call, priority, "priority"));
    *priority = stream->priority;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuStreamGetFlags(CUstream handle, unsigned int* flags) {
  return stream_call(THIS_ENTRY(cuStreamGetFlags), handle, [&](Call& call, const std::shared_ptr<Stream>& stream) {
    SOFTCUDA_TRY(need(call, flags, "flags"));
    *flags = stream->flags;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuStreamGetId(CUstream handle, unsigned long long* id) {
  return stream_call(THIS_ENTRY(cuStreamGetId), handle, [&](Call& call, const std::shared_ptr<Stream>& stream) {
    SOFTCUDA_TRY(need(call, id, "streamId"));
    *id = stream->id;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuStreamGetCtx(CUstream handle, CUcontext* context) {
  return stream_call(THIS_ENTRY(cuStreamGetCtx), handle, [&](Call& call, const std::shared_ptr<Stream>&) {
    SOFTCUDA_TRY(need(call, context, "pctx"));
    *context = static_cast<CUcontext>(call.context->handle);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) {
  return THIS_ENTRY(cuStreamWaitEvent).call(Needs::context, [&](Call& call) {
    return wait_event(call, stream, event, flags);
  });
}

SOFTCUDA_API CUresult cuStreamAddCallback(CUstream handle, CUstreamCallback callback, void* data, unsigned int flags) {
  return stream_call(THIS_ENTRY(cuStreamAddCallback), handle, [&](Call& call, const std::shared_ptr<Stream>& stream) {
    SOFTCUDA_TRY(need(call, reinterpret_cast<const void*>(callback), "callback"));
    if (flags) return call.fail(CUDA_ERROR_INVALID_VALUE, "flags must be 0");
    if (stream->capture) {
      stream->capture->invalid = true;
      return call.fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                       "callbacks cannot be captured; use cuLaunchHostFunc. The capture is invalid now");
    }
    OldCallback one = {callback, handle, data};
    return enqueue(call, stream, HostCall{OldCallback::call, &one});
  });
}

SOFTCUDA_API CUresult cuStreamQuery(CUstream handle) {
  return stream_call(THIS_ENTRY(cuStreamQuery), handle, [&](Call& call, const std::shared_ptr<Stream>& stream) {
    SOFTCUDA_TRY(refuse_wait(call, *stream));
    return wait(call);
  });
}

SOFTCUDA_API CUresult cuStreamSynchronize(CUstream handle) {
  return stream_call(THIS_ENTRY(cuStreamSynchronize), handle, [&](Call& call, const std::shared_ptr<Stream>& stream) {
    SOFTCUDA_TRY(refuse_wait(call, *stream));
    return wait(call);
  });
}

// --- Events.

SOFTCUDA_API CUresult cuEventCreate(CUevent* out, unsigned int flags) {
  return THIS_ENTRY(cuEventCreate).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, out, "phEvent"));
    if (flags & CU_EVENT_INTERPROCESS) {
      return call.fail(CUDA_ERROR_NOT_SUPPORTED, "events between processes are not supported");
    }
    if (flags & ~unsigned(CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING)) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "event flags " + hex(flags) + " are not valid");
    }
    auto event = std::make_shared<Event>();
    event->context = call.context;
    event->flags = flags;
    driver().handles.add(event);
    call.context->handles.insert(event->handle);
    *out = static_cast<CUevent>(event->handle);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuEventDestroy_v2(CUevent handle) {
  return THIS_ENTRY(cuEventDestroy_v2).releasing(Needs::context, [&](Call& call) {
    std::shared_ptr<Event> event = find<Event>(call, handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (std::shared_ptr<Context> owner = event->context.lock()) owner->handles.erase(event->handle);
    driver().handles.remove(handle);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuEventRecord(CUevent event, CUstream stream) {
  return THIS_ENTRY(cuEventRecord).call(Needs::context, [&](Call& call) { return record(call, event, stream, 0); });
}

SOFTCUDA_API CUresult cuEventRecordWithFlags(CUevent event, CUstream stream, unsigned int flags) {
  return THIS_ENTRY(cuEventRecordWithFlags).call(Needs::context, [&](Call& call) {
    return record(call, event, stream, flags);
  });
}

SOFTCUDA_API CUresult cuEventQuery(CUevent handle) {
  return event_call(THIS_ENTRY(cuEventQuery), handle,
                    [&](Call& call, const std::shared_ptr<Event>& event) { return look_at_event(call, *event); });
}

SOFTCUDA_API CUresult cuEventSynchronize(CUevent handle) {
  return event_call(THIS_ENTRY(cuEventSynchronize), handle,
                    [&](Call& call, const std::shared_ptr<Event>& event) { return look_at_event(call, *event); });
}

SOFTCUDA_API CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  return THIS_ENTRY(cuEventElapsedTime).call(Needs::context, [&](Call& call) {
    return elapsed(call, milliseconds, start, end);
  });
}
