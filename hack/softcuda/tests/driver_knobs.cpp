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
