// Fault injection, the counts of calls, the counters of kernels, the log.
#include "driver.h"

TEST(one_call_fails, "SOFTCUDA_FAIL=cuMemAlloc_v2:3:2,cuStreamCreate:1:999") {
  start();
  CUdeviceptr p;
  OK(cuMemAlloc(&p, 4));
  OK(cuMemAlloc(&p, 4));
  GIVES(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&p, 4), "call 3 of cuMemAlloc_v2");
  OK(cuMemAlloc(&p, 4));
  CUstream s;
  GIVES(CUDA_ERROR_UNKNOWN, cuStreamCreate(&s, 0), "SOFTCUDA_FAIL");
  OK(cuStreamCreate(&s, 0));
}

TEST(any_call_fails, "SOFTCUDA_FAIL=*:3:700") {
  start();  // two calls
  CUdeviceptr p;
  GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemAlloc(&p, 4), "call 3 of all entries");
  OK(cuMemAlloc(&p, 4));
}

TEST(a_lost_device_stays_lost, "SOFTCUDA_FAIL=cuMemcpyHtoD_v2:2:719:sticky") {
  CUcontext context = start();
  CUdeviceptr p;
  CUevent event;
  OK(cuMemAlloc(&p, 4));
  OK(cuEventCreate(&event, 0));
  int value = 1;
  OK(cuMemcpyHtoD(p, &value, 4));
  SAME(cuMemcpyHtoD(p, &value, 4), CUDA_ERROR_LAUNCH_FAILED);
  SAME(cuMemcpyHtoD(p, &value, 4), CUDA_ERROR_LAUNCH_FAILED);
  SAME(cuCtxSynchronize(), CUDA_ERROR_LAUNCH_FAILED);
  SAME(cuEventDestroy(event), CUDA_ERROR_LAUNCH_FAILED);
  SAME(cuMemFree(p), CUDA_ERROR_LAUNCH_FAILED);
  OK(cuCtxDestroy(context));
  SAME(softcudaFaultCount("leak"), 0ull);
}

TEST(failed_frees_do_free, "SOFTCUDA_FAIL=cuMemFree_v2:1:700,cuMemFreeHost:1:700,cuCtxDestroy_v2:1:700") {
  CUcontext context = start();
  CUdeviceptr p;
  void* host;
  OK(cuMemAlloc(&p, 4));
  OK(cuMemAllocHost(&host, 4));
  SAME(cuMemFree(p), CUDA_ERROR_ILLEGAL_ADDRESS);
  SAME(cuMemFreeHost(host), CUDA_ERROR_ILLEGAL_ADDRESS);
  SAME(cuCtxDestroy(context), CUDA_ERROR_ILLEGAL_ADDRESS);
  SAME(softcudaFaultCount("leak"), 0ull);
}

TEST(calls_are_counted) {
  std::string path = scratch("calls");
  setenv("SOFTCUDA_CALLS", path.c_str(), 1);
  start();
  CUdeviceptr p;
  for (int i = 0; i < 12; i++) OK(cuMemAlloc(&p, 4));
  SAME(cuMemFree(1), CUDA_ERROR_INVALID_VALUE);
  std::string text = read_file(path);  // without a flush: it is always up to date
  unlink(path.c_str());
  auto count = [&](const char* name) {
    size_t at = text.find(std::string("\"") + name + "\":");
    CHECK(at != std::string::npos);
    return std::atoi(text.c_str() + text.find(':', at) + 1);
  };
  SAME(count("cuMemAlloc_v2"), 12);
  SAME(count("cuMemFree_v2"), 1);
  SAME(count("cuInit"), 1);
  SAME(count("cuGraphLaunch"), 0);
  CHECK(text.front() == '{' && text.substr(text.size() - 2) == "}\n");
}

TEST(kernels_are_counted) {
  std::string path = scratch("counters");
  setenv("SOFTCUDA_COUNTERS", path.c_str(), 1);
  start();
  Kernels k = load();
  Word word(1);
  for (int i = 0; i < 3; i++) OK(launch(k["twice"], 1, 1, 0, nullptr, word.address));
  OK(launch(k["bounded"], 2, 32, 0, nullptr));
  softcudaFlush();
  std::string text = read_file(path);
  unlink(path.c_str());
  size_t at = text.find("\"twice\"");
  CHECK(at != std::string::npos && text.find("\"bounded\"") != std::string::npos);
  auto value = [&](const char* name) {
    size_t field = text.find(std::string("\"") + name + "\":", at);
    return std::atoll(text.c_str() + text.find(':', field) + 1);
  };
  SAME(value("launches"), 3ll);
  SAME(value("global_load_bytes"), 12ll);
  SAME(value("global_store_bytes"), 12ll);
  SAME(value("global_load_sectors"), 3ll);
}

TEST(faults_are_logged) {
  std::string path = scratch("log");
  setenv("SOFTCUDA_LOG", (scratch("log").substr(0, path.rfind('-')) + "-%p").c_str(), 1);
  start();
  CUdeviceptr p;
  SAME(cuMemAlloc(&p, 0), CUDA_ERROR_INVALID_VALUE);
  SAME(cuMemFree(42), CUDA_ERROR_INVALID_VALUE);
  std::string text = read_file(path);  // %p became this process's number
  unlink(path.c_str());
  CHECK(text.find("cuMemAlloc_v2 gave CUDA_ERROR_INVALID_VALUE: 0 bytes\n") != std::string::npos);
  CHECK(text.find("0x2a is not the start of memory") != std::string::npos);
  SAME(softcudaFaultCount("api"), 2ull);
}

namespace {

// A small program that does a bit of everything, gives up at the first error and then
// cleans up all that it has, going on in spite of errors. Gives that first error.
CUresult everything() {
  CUcontext context = nullptr;
  CUdeviceptr p = 0, q = 0;
  void* host = nullptr;
  CUmodule module = nullptr;
  CUstream stream = nullptr;
  CUevent event = nullptr;
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
  CUfunction f;
  auto work = [&]() -> CUresult {
#define STEP(call)                                      \
  if (CUresult result = (call); result != CUDA_SUCCESS) \
  return result
    STEP(cuInit(0));
    STEP(cuCtxCreate(&context, 0, 0));
    STEP(cuModuleLoadData(&module, kPtx));
    STEP(cuModuleGetFunction(&f, module, "add_to"));
    STEP(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 100000));
    STEP(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    STEP(cuEventCreate(&event, 0));
    STEP(cuMemAlloc(&p, 4));
    STEP(cuMemAllocAsync(&q, 4, stream));
    STEP(cuMemAllocHost(&host, 4));
    std::memset(host, 0, 4);
    STEP(cuMemcpyHtoDAsync(p, host, 4, stream));
    STEP(cuMemsetD32Async(q, 1, 1, stream));
    STEP(launch(f, 1, 1, 0, stream, p, 1u));
    STEP(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
    STEP(launch(f, 1, 1, 0, stream, p, 2u));
    STEP(cuMemcpyDtoHAsync(host, p, 4, stream));
    STEP(cuStreamEndCapture(stream, &graph));
    STEP(cuGraphInstantiate(&exec, graph, 0));
    STEP(cuGraphLaunch(exec, stream));
    STEP(cuEventRecord(event, stream));
    STEP(cuEventSynchronize(event));
    STEP(cuStreamSynchronize(stream));
    SAME(*static_cast<int*>(host), 3);
#undef STEP
    return CUDA_SUCCESS;
  };
  CUresult first = work();
  auto also = [&](CUresult result) {
    if (first == CUDA_SUCCESS) first = result;
  };
  if (stream) {
    CUstreamCaptureStatus is = CU_STREAM_CAPTURE_STATUS_NONE;
    also(cuStreamIsCapturing(stream, &is));
    if (is != CU_STREAM_CAPTURE_STATUS_NONE) also(cuStreamEndCapture(stream, &graph));
  }
  if (exec) also(cuGraphExecDestroy(exec));
  if (graph) also(cuGraphDestroy(graph));
  if (q) also(cuMemFreeAsync(q, stream));
  if (p) also(cuMemFree(p));
  if (host) also(cuMemFreeHost(host));
  if (event) also(cuEventDestroy(event));
  if (stream) also(cuStreamDestroy(stream));
  if (module) also(cuModuleUnload(module));
  if (context) also(cuCtxDestroy(context));
  return first;
}

// Runs everything() in a process of its own with a call that fails; gives whether any did.
bool fails_at(int call, const char* rest, CUresult want) {
  pid_t child = fork();
  if (child == 0) {
    setenv("SOFTCUDA_FAIL", ("*:" + std::to_string(call) + rest).c_str(), 1);
    CUresult first = everything();
    if (softcudaFaultCount("leak") || softcudaFaultCount("host-overrun")) failed(__FILE__, __LINE__, "it leaked");
    if (!softcudaFaultCount("injected")) std::_Exit(first == CUDA_SUCCESS ? 3 : 1);
    if (first != want) failed(__FILE__, __LINE__, "call " + std::to_string(call) + " failing gave " + std::to_string(first));
    std::_Exit(0);
  }
  alarm(60);  // none may hang
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3));
  return WEXITSTATUS(status) == 0;
}

}  // namespace

// Whichever call fails, the program gets that error, nothing hangs and nothing leaks.
TEST(each_call_fails_once) {
  int call = 1;
  while (fails_at(call, ":999", CUDA_ERROR_UNKNOWN)) call++;
  CHECK(call > 30);
}

TEST(the_device_is_lost_at_each_call) {
  int call = 1;
  while (fails_at(call, ":700:sticky", CUDA_ERROR_ILLEGAL_ADDRESS)) call++;
  CHECK(call > 30);
}
