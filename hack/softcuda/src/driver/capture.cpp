#include "capture.h"

#include <algorithm>
#include <unordered_set>

#include "graph.h"

namespace softcuda {
namespace {

CUresult invalidate(Call& call, const std::vector<std::shared_ptr<Capture>>& captures, CUresult error,
                    const std::string& why) {
  if (captures.empty() || call.doomed) return CUDA_SUCCESS;
  for (const auto& capture : captures) capture->invalid = true;
  return call.fail(error, why + "; the capture is invalid now");
}

template <class Pick>
std::vector<std::shared_ptr<Capture>> pick(const Pick& which) {
  std::vector<std::shared_ptr<Capture>> found;
  for (const auto& capture : driver().captures) {
    if (which(*capture)) found.push_back(capture);
  }
  return found;
}

bool captures_a_blocking_stream(const Capture& capture) {
  return std::any_of(capture.streams.begin(), capture.streams.end(), [](const std::weak_ptr<Stream>& weak) {
    std::shared_ptr<Stream> stream = weak.lock();
    return stream && stream->capture && stream->blocking();
  });
}

}  // namespace

CUresult capture_node(Call& call, Stream& stream, Work work) {
  Capture& capture = *stream.capture;
  if (capture.invalid) {
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "an earlier error made this stream's capture invalid");
  }
  std::shared_ptr<Node> node = capture.graph->add(std::move(work), stream.tail);
  stream.tail = {node};
  return CUDA_SUCCESS;
}

void join(const std::shared_ptr<Capture>& capture, const std::shared_ptr<Stream>& stream,
          std::vector<std::shared_ptr<Node>> position) {
  stream->capture = capture;
  stream->tail = std::move(position);
  capture->streams.push_back(stream);
}

// Takes a capture off its streams and out of the driver's list.
static void finish(const std::shared_ptr<Capture>& capture) {
  capture->ended = true;
  for (const auto& weak : capture->streams) {
    if (std::shared_ptr<Stream> stream = weak.lock(); stream && stream->capture == capture) {
      stream->capture = nullptr;
      stream->tail.clear();
    }
  }
  driver().captures.remove(capture);
}

void end_captures(Context& context) {
  for (const auto& capture : pick([&](const Capture& c) { return c.context.lock().get() == &context; })) {
    finish(capture);
    drop_handles(*capture->graph);
  }
}

CUresult refuse_unsafe(Call& call) {
  CUstreamCaptureMode mode = this_thread().mode;
  if (mode == CU_STREAM_CAPTURE_MODE_RELAXED) return CUDA_SUCCESS;
  std::thread::id self = std::this_thread::get_id();
  return invalidate(call, pick([&](const Capture& c) {
                      if (c.thread == self) return c.mode != CU_STREAM_CAPTURE_MODE_RELAXED;
                      return mode == CU_STREAM_CAPTURE_MODE_GLOBAL && c.mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
                    }),
                    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                    "a stream is being captured in a mode that forbids this call on this thread");
}

bool captured_before_legacy(const Call& call) {
  return !pick([&](const Capture& c) {
            return c.context.lock() == call.context && captures_a_blocking_stream(c);
          }).empty();
}

CUresult refuse_legacy(Call& call) {
  return invalidate(call, pick([&](const Capture& c) {
                      return c.context.lock() == call.context && captures_a_blocking_stream(c);
                    }),
                    CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
                    "the legacy stream waits for a stream that is being captured (it was created without "
                    "CU_STREAM_NON_BLOCKING)");
}

CUresult refuse_wait(Call& call, const Stream& stream) {
  if (stream.capture) {
    return invalidate(call, {stream.capture}, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                      "a stream that is being captured cannot be waited for");
  }
  if (stream.role == Stream::Role::legacy) SOFTCUDA_TRY(refuse_legacy(call));
  return refuse_unsafe(call);
}

CUresult refuse_captures_of_context(Call& call) {
  return invalidate(call, pick([&](const Capture& c) { return c.context.lock() == call.context; }),
                    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                    "a stream of the context is being captured, so the context cannot be waited for");
}

CUresult refuse_synchronous(Call& call) {
  SOFTCUDA_TRY(refuse_legacy(call));
  return refuse_unsafe(call);
}

}  // namespace softcuda

using namespace softcuda;

namespace {

CUresult begin(Call& call, CUstream handle, CUstreamCaptureMode mode) {
  std::shared_ptr<Stream> stream = find_stream(call, handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (mode < CU_STREAM_CAPTURE_MODE_GLOBAL || mode > CU_STREAM_CAPTURE_MODE_RELAXED) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "there is no capture mode " + std::to_string(int(mode)));
  }
  if (stream->role == Stream::Role::legacy) {
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the legacy stream cannot be captured");
  }
  if (stream->capture) return call.fail(CUDA_ERROR_ILLEGAL_STATE, "the stream is being captured already");
  auto capture = std::make_shared<Capture>();
  capture->id = driver().next_id++;
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->origin = stream;
  capture->context = call.context;
  capture->graph = make_graph();
  join(capture, stream, {});
  driver().captures.push_back(capture);
  return CUDA_SUCCESS;
}

// The nodes that `from` come after, and themselves.
std::unordered_set<const Node*> behind(const std::vector<std::shared_ptr<Node>>& from) {
  std::unordered_set<const Node*> seen;
  std::vector<const Node*> open;
  for (const auto& node : from) open.push_back(node.get());
  while (!open.empty()) {
    const Node* node = open.back();
    open.pop_back();
    if (!seen.insert(node).second) continue;
    for (const auto& weak : node->dependencies) {
      if (std::shared_ptr<Node> before = weak.lock()) open.push_back(before.get());
    }
  }
  return seen;
}

bool all_joined(const Capture& capture, const Stream& origin) {
  return behind(origin.tail).size() == capture.graph->nodes.size();
}

CUresult end(Call& call, CUstream handle, CUgraph* out) {
  SOFTCUDA_TRY(need(call, out, "phGraph"));
  *out = nullptr;
  std::shared_ptr<Stream> stream = find_stream(call, handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  std::shared_ptr<Capture> capture = stream->capture;
  if (!capture) return call.fail(CUDA_ERROR_ILLEGAL_STATE, "the stream is not being captured");
  if (capture->origin.lock() != stream) {
    capture->invalid = true;
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "the capture was begun on another stream; end it there");
  }
  if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != std::this_thread::get_id()) {
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
                     "another thread began the capture, in a mode other than RELAXED");
  }
  bool joined = all_joined(*capture, *stream);
  finish(capture);
  if (capture->invalid || !joined) drop_handles(*capture->graph);
  if (capture->invalid) {
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "an earlier error made the capture invalid");
  }
  if (!joined) {
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
                     "another stream of the capture has work that the origin does not wait for; record an event on "
                     "it and wait for that on the origin");
  }
  *out = static_cast<CUgraph>(capture->graph->handle);
  return CUDA_SUCCESS;
}

CUstreamCaptureStatus status(const Stream& stream) {
  if (!stream.capture) return CU_STREAM_CAPTURE_STATUS_NONE;
  return stream.capture->invalid ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

}  // namespace

SOFTCUDA_API CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode) {
  return THIS_ENTRY(cuStreamBeginCapture_v2).call(Needs::context, [&](Call& call) { return begin(call, stream, mode); });
}

SOFTCUDA_API CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  return THIS_ENTRY(cuStreamEndCapture).call(Needs::context, [&](Call& call) { return end(call, stream, graph); });
}

SOFTCUDA_API CUresult cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus* out) {
  return THIS_ENTRY(cuStreamIsCapturing).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, out, "captureStatus"));
    std::shared_ptr<Stream> stream = find_stream(call, handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    *out = status(*stream);
    if (stream->role != Stream::Role::legacy || !captured_before_legacy(call)) return CUDA_SUCCESS;
    return call.fail(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, "a stream that the legacy stream waits for is being captured");
  });
}

SOFTCUDA_API CUresult cuStreamGetCaptureInfo_v2(CUstream handle, CUstreamCaptureStatus* out, cuuint64_t* id,
                                                CUgraph* graph, const CUgraphNode** dependencies, size_t* count) {
  return THIS_ENTRY(cuStreamGetCaptureInfo_v2).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, out, "captureStatus_out"));
    std::shared_ptr<Stream> stream = find_stream(call, handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    *out = status(*stream);
    if (stream->role == Stream::Role::legacy && captured_before_legacy(call)) {
      return call.fail(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
                       "a stream that the legacy stream waits for is being captured");
    }
    if (!stream->capture) return CUDA_SUCCESS;
    if (id) *id = stream->capture->id;
    if (graph) *graph = static_cast<CUgraph>(stream->capture->graph->handle);
    stream->tail_handles.clear();
    for (const auto& node : stream->tail) stream->tail_handles.push_back(static_cast<CUgraphNode>(node->handle));
    if (dependencies) *dependencies = stream->tail_handles.data();
    if (count) *count = stream->tail_handles.size();
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  return THIS_ENTRY(cuThreadExchangeStreamCaptureMode).call(Needs::driver, [&](Call& call) {
    SOFTCUDA_TRY(need(call, mode, "mode"));
    if (*mode < CU_STREAM_CAPTURE_MODE_GLOBAL || *mode > CU_STREAM_CAPTURE_MODE_RELAXED) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "there is no capture mode " + std::to_string(int(*mode)));
    }
    std::swap(*mode, this_thread().mode);
    return CUDA_SUCCESS;
  });
}
