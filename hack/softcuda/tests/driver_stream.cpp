// Streams, events and what capture forbids. No kernels: work here is copies and sets.
#include "driver.h"

#include <thread>

namespace {

struct Fixture {
  CUcontext context = start();
  CUstream blocking = nullptr, free = nullptr, other = nullptr;
  CUdeviceptr memory = 0;
  Fixture() {
    OK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
    OK(cuStreamCreate(&free, CU_STREAM_NON_BLOCKING));
    OK(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    OK(cuMemAlloc(&memory, 16));
    OK(cuMemsetD8(memory, 0, 16));
  }
  unsigned word(int i) const {
    unsigned value;
    OK(cuMemcpyDtoH(&value, memory + 4 * i, 4));
    return value;
  }
  void set(int i, unsigned value, CUstream s) const { OK(cuMemsetD32Async(memory + 4 * i, value, 1, s)); }
};

CUstreamCaptureStatus status(CUstream s) {
  CUstreamCaptureStatus is;
  OK(cuStreamIsCapturing(s, &is));
  return is;
}

}  // namespace

TEST(streams_have_properties) {
  Fixture f;
  unsigned flags = 9;
  int priority = 9;
  OK(cuStreamGetFlags(f.free, &flags));
  SAME(flags, unsigned(CU_STREAM_NON_BLOCKING));
  CUstream s;
  OK(cuStreamCreateWithPriority(&s, 0, -100));
  OK(cuStreamGetPriority(s, &priority));
  int least, greatest;
  OK(cuCtxGetStreamPriorityRange(&least, &greatest));
  SAME(priority, greatest);
  CUcontext context;
  OK(cuStreamGetCtx(s, &context));
  CHECK(context == f.context);
  unsigned long long a, b;
  OK(cuStreamGetId(nullptr, &a));
  OK(cuStreamGetId(s, &b));
  CHECK(a != b);
  OK(cuStreamDestroy(s));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(s), "a stream that was destroyed");
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamDestroy(nullptr), "null handle");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamCreate(&s, 2), "flags");
  CUevent e;
  OK(cuEventCreate(&e, 0));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(reinterpret_cast<CUstream>(e)), "is an event");
  start();
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(f.free), "another context");
}

TEST(events_order_and_time) {
  Fixture f;
  CUevent a, b, untimed;
  OK(cuEventCreate(&a, CU_EVENT_DEFAULT));
  OK(cuEventCreate(&b, CU_EVENT_BLOCKING_SYNC));
  OK(cuEventCreate(&untimed, CU_EVENT_DISABLE_TIMING));
  float ms = -1;
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, a, b), "not recorded");
  OK(cuEventRecord(a, f.free));
  OK(cuStreamWaitEvent(f.other, a, 0));
  usleep(2000);
  OK(cuEventRecord(b, f.other));
  OK(cuEventQuery(b));
  OK(cuEventSynchronize(b));
  OK(cuEventElapsedTime(&ms, a, b));
  CHECK(ms >= 2 && ms < 10000);
  OK(cuEventRecord(untimed, nullptr));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, a, untimed), "DISABLE_TIMING");
  OK(cuEventDestroy(a));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuEventRecord(a, f.free), "destroyed");
  GIVES(CUDA_ERROR_NOT_SUPPORTED, cuEventCreate(&a, CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING), "processes");
}

TEST(host_functions_run_in_order) {
  Fixture f;
  static unsigned seen = 0;
  static CUresult inside = CUDA_SUCCESS;
  static CUdeviceptr memory;
  memory = f.memory;
  f.set(0, 5, f.free);
  OK(cuLaunchHostFunc(f.free, [](void* data) {
    seen = *static_cast<unsigned*>(data);
    inside = cuMemsetD8(memory, 0, 1);
  }, new unsigned(7)));
  OK(cuStreamSynchronize(f.free));
  SAME(seen, 7u);
  SAME(inside, CUDA_ERROR_NOT_PERMITTED);
  SAME(f.word(0), 5u);
  OK(cuStreamAddCallback(f.free, [](CUstream, CUresult, void*) { seen = 8; }, nullptr, 0));
  SAME(seen, 8u);
}

TEST(capture_runs_nothing_until_launched) {
  Fixture f;
  OK(cuStreamBeginCapture(f.free, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
  SAME(status(f.free), CU_STREAM_CAPTURE_STATUS_ACTIVE);
  SAME(status(f.other), CU_STREAM_CAPTURE_STATUS_NONE);
  f.set(0, 1, f.free);
  static unsigned host;
  host = 0;
  OK(cuMemcpyDtoHAsync(&host, f.memory, 4, f.free));
  CUgraph graph;
  OK(cuStreamEndCapture(f.free, &graph));
  SAME(status(f.free), CU_STREAM_CAPTURE_STATUS_NONE);
  SAME(f.word(0), 0u);
  size_t nodes = 0;
  OK(cuGraphGetNodes(graph, nullptr, &nodes));
  SAME(nodes, size_t{2});
  CUgraphExec exec;
  OK(cuGraphInstantiate(&exec, graph, 0));
  OK(cuGraphDestroy(graph));
  OK(cuGraphUpload(exec, f.free));
  OK(cuGraphLaunch(exec, f.free));
  OK(cuStreamSynchronize(f.free));
  SAME(f.word(0), 1u);
  SAME(host, 1u);
  OK(cuGraphExecDestroy(exec));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuGraphLaunch(exec, f.free), "destroyed");
}

TEST(capture_forks_and_joins) {
  Fixture f;
  CUevent fork, join;
  OK(cuEventCreate(&fork, CU_EVENT_DISABLE_TIMING));
  OK(cuEventCreate(&join, CU_EVENT_DISABLE_TIMING));
  OK(cuStreamBeginCapture(f.free, CU_STREAM_CAPTURE_MODE_GLOBAL));
  f.set(0, 1, f.free);
  OK(cuEventRecord(fork, f.free));
  OK(cuStreamWaitEvent(f.other, fork, 0));
  SAME(status(f.other), CU_STREAM_CAPTURE_STATUS_ACTIVE);
  f.set(1, 2, f.other);
  f.set(2, 3, f.free);
  OK(cuEventRecord(join, f.other));
  OK(cuStreamWaitEvent(f.free, join, 0));
  f.set(3, 4, f.free);
  CUstreamCaptureStatus is;
  cuuint64_t id = 0;
  CUgraph graph;
  const CUgraphNode* tail;
  size_t count;
  OK(cuStreamGetCaptureInfo(f.free, &is, &id, &graph, &tail, &count));
  CHECK(is == CU_STREAM_CAPTURE_STATUS_ACTIVE && id != 0 && count == 1);
  OK(cuStreamEndCapture(f.free, &graph));
  SAME(status(f.other), CU_STREAM_CAPTURE_STATUS_NONE);
  size_t edges = 0;
  OK(cuGraphGetEdges(graph, nullptr, nullptr, &edges));
  SAME(edges, size_t{4});  // 1→2, 1→3, 2→4, 3→4
  CUgraphExec exec;
  OK(cuGraphInstantiate(&exec, graph, 0));
  OK(cuGraphLaunch(exec, nullptr));
  for (int i = 0; i < 4; i++) SAME(f.word(i), unsigned(i + 1));
  GIVES(CUDA_ERROR_CAPTURED_EVENT, cuEventQuery(join), "captur");
  OK(cuEventRecord(join, f.free));
  OK(cuEventQuery(join));
}

TEST(capture_left_unjoined) {
  Fixture f;
  CUevent fork;
  OK(cuEventCreate(&fork, 0));
  OK(cuStreamBeginCapture(f.free, CU_STREAM_CAPTURE_MODE_GLOBAL));
  OK(cuEventRecord(fork, f.free));
  OK(cuStreamWaitEvent(f.other, fork, 0));
  f.set(1, 2, f.other);
  CUgraph graph;
  GIVES(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, cuStreamEndCapture(f.free, &graph), "wait for that on the origin");
  CHECK(graph == nullptr);
  SAME(status(f.free), CU_STREAM_CAPTURE_STATUS_NONE);
}

TEST(capture_ends_where_it_began) {
  Fixture f;
  CUevent fork;
  CUgraph graph;
  OK(cuEventCreate(&fork, 0));
  GIVES(CUDA_ERROR_ILLEGAL_STATE, cuStreamEndCapture(f.free, &graph), "not being captured");
  OK(cuStreamBeginCapture(f.free, CU_STREAM_CAPTURE_MODE_GLOBAL));
  GIVES(CUDA_ERROR_ILLEGAL_STATE, cuStreamBeginCapture(f.free, CU_STREAM_CAPTURE_MODE_GLOBAL), "already");
  OK(cuEventRecord(fork, f.free));
  OK(cuStreamWaitEvent(f.other, fork, 0));
  GIVES(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, cuStreamEndCapture(f.other, &graph), "another stream");
  std::thread([&] {
    OK(cuCtxSetCurrent(f.context));
    GIVES(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, cuStreamEndCapture(f.free, &graph), "another thread");
  }).join();
  GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuStreamEndCapture(f.free, &graph), "earlier error");
  GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamBeginCapture(nullptr, CU_STREAM_CAPTURE_MODE_GLOBAL), "legacy");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuStreamBeginCapture(f.free, CUstreamCaptureMode(3)), "mode 3");
}

TEST(relaxed_capture_ends_on_any_thread) {
  Fixture f;
  OK(cuStreamBeginCapture(f.free, CU_STREAM_CAPTURE_MODE_RELAXED));
  std::thread([&] {
    CUgraph graph;
    OK(cuCtxSetCurrent(f.context));
    f.set(0, 1, f.free);
    OK(cuStreamEndCapture(f.free, &graph));
  }).join();
}

// What one call gives in a capture of each mode, on the capturing thread and another; and
// whether the capture survives it.
TEST(capture_modes_forbid) {
  Fixture f;
  CUevent plain;
  OK(cuEventCreate(&plain, 0));
  OK(cuEventRecord(plain, f.other));
  const struct {
    const char* name;
    CUresult (*call)(Fixture&, CUevent);
  } unsafe[] = {
      {"cuMemAlloc", [](Fixture&, CUevent) { CUdeviceptr p; return cuMemAlloc(&p, 4); }},
      {"cuMemFree", [](Fixture& f, CUevent) {
         CUdeviceptr p = f.memory;
         CUresult r = cuMemFree(p);
         if (r == CUDA_SUCCESS) r = cuMemAlloc(&f.memory, 16);
         return r;
       }},
      {"cuMemAllocHost", [](Fixture&, CUevent) { void* p; return cuMemAllocHost(&p, 4); }},
      {"cuEventQuery", [](Fixture&, CUevent e) { return cuEventQuery(e); }},
      {"cuEventSynchronize", [](Fixture&, CUevent e) { return cuEventSynchronize(e); }},
      {"cuStreamSynchronize", [](Fixture& f, CUevent) { return cuStreamSynchronize(f.other); }},
      {"cuMemcpyDtoH", [](Fixture& f, CUevent) { char c[4]; OK(cuMemsetD8Async(f.memory, 0, 16, f.other)); return cuMemcpyDtoH(c, f.memory, 4); }},
  };
  const struct {
    CUstreamCaptureMode mode;
    bool same_thread, other_thread;  // forbidden there
  } rows[] = {{CU_STREAM_CAPTURE_MODE_GLOBAL, true, true},
              {CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, true, false},
              {CU_STREAM_CAPTURE_MODE_RELAXED, false, false}};
  for (const auto& row : rows) {
    for (const auto& one : unsafe) {
      for (bool same : {true, false}) {
        OK(cuStreamBeginCapture(f.free, row.mode));
        CUresult result = CUDA_SUCCESS;
        if (same) {
          result = one.call(f, plain);
        } else {
          std::thread([&] {
            OK(cuCtxSetCurrent(f.context));
            result = one.call(f, plain);
          }).join();
        }
        bool forbidden = same ? row.same_thread : row.other_thread;
        CUresult want = forbidden ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS;
        if (result != want) {
          failed(__FILE__, __LINE__, std::string(one.name) + " in mode " + std::to_string(row.mode) + (same ? "" : " on another thread") +
                                         " gave " + std::to_string(result));
        }
        SAME(status(f.free), forbidden ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE);
        CUgraph graph;
        SAME(cuStreamEndCapture(f.free, &graph), forbidden ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS);
      }
    }
  }
}

TEST(threads_exchange_their_mode) {
  Fixture f;
  OK(cuStreamBeginCapture(f.free, CU_STREAM_CAPTURE_MODE_GLOBAL));
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
  OK(cuThreadExchangeStreamCaptureMode(&mode));
  SAME(mode, CU_STREAM_CAPTURE_MODE_GLOBAL);
  CUdeviceptr p;
  OK(cuMemAlloc(&p, 4));
  OK(cuThreadExchangeStreamCaptureMode(&mode));
  SAME(mode, CU_STREAM_CAPTURE_MODE_RELAXED);
  GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuMemAlloc(&p, 4), "invalid now");
}

TEST(captured_streams_cannot_be_waited_for) {
  Fixture f;
  CUgraph graph;
  auto capture = [&](CUstream s) { OK(cuStreamBeginCapture(s, CU_STREAM_CAPTURE_MODE_RELAXED)); };
  auto spoilt = [&](CUstream s) {
    GIVES(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, cuMemsetD8Async(f.memory, 0, 1, s), "earlier error");
    SAME(cuStreamEndCapture(s, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  };
  capture(f.free);
  GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamSynchronize(f.free), "cannot be waited for");
  spoilt(f.free);
  capture(f.free);
  GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuStreamQuery(f.free), "cannot be waited for");
  spoilt(f.free);
  capture(f.free);
  GIVES(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, cuCtxSynchronize(), "the context cannot be waited for");
  spoilt(f.free);
  // The legacy stream waits for blocking streams.
  capture(f.blocking);
  GIVES(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuMemsetD8Async(f.memory, 0, 1, nullptr), "legacy stream");
  spoilt(f.blocking);
  capture(f.blocking);
  GIVES(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuMemsetD8(f.memory, 0, 1), "legacy stream");
  spoilt(f.blocking);
  capture(f.blocking);
  CUstreamCaptureStatus is;
  GIVES(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, cuStreamIsCapturing(nullptr, &is), "legacy stream");
  SAME(status(f.blocking), CU_STREAM_CAPTURE_STATUS_ACTIVE);  // asking spoils nothing
  OK(cuStreamEndCapture(f.blocking, &graph));
  capture(f.free);
  OK(cuMemsetD8Async(f.memory, 0, 1, nullptr));
  OK(cuStreamEndCapture(f.free, &graph));
}

TEST(captures_keep_apart) {
  Fixture f;
  CUevent e;
  CUgraph graph;
  OK(cuEventCreate(&e, 0));
  OK(cuEventRecord(e, f.other));
  OK(cuStreamBeginCapture(f.free, CU_STREAM_CAPTURE_MODE_RELAXED));
  GIVES(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, cuStreamWaitEvent(f.free, e, 0), "outside of the capture");
  SAME(cuStreamEndCapture(f.free, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  OK(cuStreamBeginCapture(f.free, CU_STREAM_CAPTURE_MODE_RELAXED));
  OK(cuStreamBeginCapture(f.other, CU_STREAM_CAPTURE_MODE_RELAXED));
  OK(cuEventRecord(e, f.free));
  GIVES(CUDA_ERROR_STREAM_CAPTURE_MERGE, cuStreamWaitEvent(f.other, e, 0), "another capture");
  SAME(cuStreamEndCapture(f.free, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  SAME(cuStreamEndCapture(f.other, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  OK(cuStreamBeginCapture(f.free, CU_STREAM_CAPTURE_MODE_RELAXED));
  OK(cuEventRecord(e, f.free));
  GIVES(CUDA_ERROR_CAPTURED_EVENT, cuEventSynchronize(e), "in a capture");
  SAME(cuStreamEndCapture(f.free, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  // External events cross the border as nodes.
  OK(cuEventRecord(e, f.other));
  OK(cuStreamBeginCapture(f.free, CU_STREAM_CAPTURE_MODE_RELAXED));
  OK(cuStreamWaitEvent(f.free, e, CU_EVENT_WAIT_EXTERNAL));
  OK(cuEventRecordWithFlags(e, f.free, CU_EVENT_RECORD_EXTERNAL));
  OK(cuStreamEndCapture(f.free, &graph));
  CUgraphNode nodes[2];
  size_t count = 2;
  OK(cuGraphGetNodes(graph, nodes, &count));
  SAME(count, size_t{2});
  CUgraphNodeType type;
  OK(cuGraphNodeGetType(nodes[1], &type));
  SAME(type, CU_GRAPH_NODE_TYPE_EVENT_RECORD);
  // A stream or a context that goes ends its capture.
  OK(cuStreamBeginCapture(f.other, CU_STREAM_CAPTURE_MODE_GLOBAL));
  OK(cuCtxDestroy(f.context));
  start();
  CUdeviceptr p;
  OK(cuMemAlloc(&p, 4));
}
