// Stream capture: while it goes on nothing runs, work becomes nodes of a graph, and what
// CUDA forbids meanwhile is an error that also spoils the capture.
#pragma once

#include "objects.h"
#include "work.h"

namespace softcuda {

struct Capture {
  uint64_t id = 0;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  std::thread::id thread;                     // that began it
  std::weak_ptr<Stream> origin;
  std::weak_ptr<Context> context;
  std::shared_ptr<Graph> graph;
  std::vector<std::weak_ptr<Stream>> streams;  // the origin, and those that joined
  bool invalid = false;
  bool ended = false;
};

// capture_node adds work as the next node of a captured stream.
CUresult capture_node(Call&, Stream&, Work);

// join makes a stream part of a capture, its next node behind `position`.
void join(const std::shared_ptr<Capture>&, const std::shared_ptr<Stream>&, std::vector<std::shared_ptr<Node>> position);

// end_captures ends all captures of a context, without graphs.
void end_captures(Context&);

// captured_before_legacy says whether work on the legacy stream would wait for a capture.
bool captured_before_legacy(const Call&);

// --- What is forbidden, each with the error of CUDA and the reason in call.why. The
// captures that forbid it become invalid.

// Calls that might wait for or touch the device beside the streams (allocating, freeing,
// querying): forbidden by the thread's mode and the captures' modes.
CUresult refuse_unsafe(Call&);
// Work on the legacy stream while a stream that would wait for it is captured.
CUresult refuse_legacy(Call&);
// Waiting for a stream, or asking whether it is done.
CUresult refuse_wait(Call&, const Stream&);
// Waiting for the whole context.
CUresult refuse_captures_of_context(Call&);
// What works on the legacy stream and waits for it, as cuMemcpyHtoD.
CUresult refuse_synchronous(Call&);

}  // namespace softcuda
