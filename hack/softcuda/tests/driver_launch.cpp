// Modules, functions, launches: what runs, what is refused, and what sticks.
#include "driver.h"

#include <cmath>

TEST(vector_add) {
  start();
  Kernels k = load();
  constexpr unsigned n = 1000;
  std::vector<float> a(n), b(n), c(n);
  for (unsigned i = 0; i < n; i++) a[i] = float(i), b[i] = 0.5f * float(i);
  CUdeviceptr da, db, dc;
  OK(cuMemAlloc(&da, 4 * n));
  OK(cuMemAlloc(&db, 4 * n));
  OK(cuMemAlloc(&dc, 4 * n));
  OK(cuMemcpyHtoD(da, a.data(), 4 * n));
  OK(cuMemcpyHtoD(db, b.data(), 4 * n));
  OK(launch(k["vector_add"], 4, 256, 0, nullptr, da, db, dc, n));
  OK(cuCtxSynchronize());
  OK(cuMemcpyDtoH(c.data(), dc, 4 * n));
  for (unsigned i = 0; i < n; i++) CHECK(c[i] == 1.5f * float(i));
}

TEST(parameters_of_every_size) {
  start();
  CUfunction f = load()["mixed"];
  CUdeviceptr out;
  OK(cuMemAlloc(&out, 8));
  unsigned char a = 200;
  unsigned short b = 60000;
  unsigned c = 4000000000u;
  unsigned long long d = 1ull << 40, sum = 0, want = d + a + b + c;
  OK(launch(f, 1, 1, 0, nullptr, a, b, c, d, out));
  OK(cuMemcpyDtoH(&sum, out, 8));
  SAME(sum, want);
  // The same in one buffer, as offsets have it.
  size_t offset, size;
  const size_t want_offsets[] = {0, 2, 4, 8, 16}, want_sizes[] = {1, 2, 4, 8, 8};
  for (size_t i = 0; i < 5; i++) {
    OK(cuFuncGetParamInfo(f, i, &offset, &size));
    SAME(offset, want_offsets[i]);
    SAME(size, want_sizes[i]);
  }
  GIVES(CUDA_ERROR_INVALID_VALUE, cuFuncGetParamInfo(f, 5, &offset, &size), "5 parameters");
  unsigned char buffer[24] = {};
  a = 1;
  want = d + a + b + c;
  std::memcpy(buffer, &a, 1);
  std::memcpy(buffer + 2, &b, 2);
  std::memcpy(buffer + 4, &c, 4);
  std::memcpy(buffer + 8, &d, 8);
  std::memcpy(buffer + 16, &out, 8);
  size_t bytes = sizeof buffer;
  void* extra[] = {CU_LAUNCH_PARAM_BUFFER_POINTER, buffer, CU_LAUNCH_PARAM_BUFFER_SIZE, &bytes, CU_LAUNCH_PARAM_END};
  OK(cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, extra));
  OK(cuMemcpyDtoH(&sum, out, 8));
  SAME(sum, want);
  bytes = 23;
  GIVES(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, extra), "24 bytes of parameters");
  void* none[] = {nullptr, nullptr, nullptr, nullptr, nullptr};
  GIVES(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, nullptr, none, nullptr), "kernelParams[0] is null");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr), "neither");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuLaunchKernel(f, 1, 1, 1, 1, 1, 1, 0, nullptr, none, extra), "both");
}

TEST(launches_are_limited) {
  start();
  Kernels k = load();
  CUfunction f = k["bounded"], exactly = k["exactly"];
  auto grid = [&](unsigned x, unsigned y, unsigned z) { return cuLaunchKernel(f, x, y, z, 1, 1, 1, 0, nullptr, nullptr, nullptr); };
  auto block = [&](CUfunction of, unsigned x, unsigned y, unsigned z) { return cuLaunchKernel(of, 1, 1, 1, x, y, z, 0, nullptr, nullptr, nullptr); };
  OK(grid(1, 2, 3));
  GIVES(CUDA_ERROR_INVALID_VALUE, grid(0, 1, 1), "is empty");
  GIVES(CUDA_ERROR_INVALID_VALUE, grid(1, 65536, 1), "beyond");
  GIVES(CUDA_ERROR_INVALID_VALUE, grid(1, 1, 65536), "beyond");
  GIVES(CUDA_ERROR_INVALID_VALUE, grid(0x80000000u, 1, 1), "beyond");
  OK(block(f, 64, 1, 1));
  GIVES(CUDA_ERROR_INVALID_VALUE, block(f, 65, 1, 1), ".maxntid");
  GIVES(CUDA_ERROR_INVALID_VALUE, block(f, 1025, 1, 1), "beyond");
  GIVES(CUDA_ERROR_INVALID_VALUE, block(f, 1, 1, 65), "beyond");
  GIVES(CUDA_ERROR_INVALID_VALUE, block(f, 1, 0, 1), "is empty");
  OK(block(exactly, 32, 2, 1));
  GIVES(CUDA_ERROR_LAUNCH_FAILED, block(exactly, 64, 1, 1), ".reqntid");
  int value = 0;
  OK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, f));
  SAME(value, 64);
}

static void shared_limit(unsigned most) {
  start();
  CUfunction f = load()["use_shared"];
  CUdeviceptr out;
  OK(cuMemAlloc(&out, 4));
  unsigned bytes = 48 << 10, got = 0;
  int value = 0;
  OK(launch(f, 1, 1, bytes, nullptr, out, bytes));
  OK(cuMemcpyDtoH(&got, out, 4));
  SAME(got, bytes);
  bytes += 4;
  GIVES(CUDA_ERROR_INVALID_VALUE, launch(f, 1, 1, bytes, nullptr, out, bytes), "raise it by cuFuncSetAttribute");
  OK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, f));
  SAME(value, 48 << 10);
  GIVES(CUDA_ERROR_INVALID_VALUE, cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, int(most) + 1),
        "at most");
  OK(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, int(most)));
  OK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, f));
  SAME(value, int(most));
  OK(launch(f, 1, 1, most, nullptr, out, most));
  OK(cuMemcpyDtoH(&got, out, 4));
  SAME(got, most);
  GIVES(CUDA_ERROR_INVALID_VALUE, cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_NUM_REGS, 8), "cannot be set");
}

TEST(shared_memory_of_hopper) { shared_limit(227 << 10); }
TEST(shared_memory_of_ampere, "SOFTCUDA_CAPABILITY=8.0") { shared_limit(163 << 10); }

TEST(modules_and_their_names) {
  start();
  Kernels k = load();
  CUfunction f, again;
  GIVES(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&f, k.module, "vektor_add"), "it has");
  OK(cuModuleGetFunction(&f, k.module, "vector_add"));
  OK(cuModuleGetFunction(&again, k.module, "vector_add"));
  CHECK(f == again);
  unsigned count = 0;
  OK(cuModuleGetFunctionCount(&count, k.module));
  SAME(count, 7u);
  std::vector<CUfunction> all(count);
  OK(cuModuleEnumerateFunctions(all.data(), count, k.module));
  const char* name;
  OK(cuFuncGetName(&name, f));
  CHECK(std::strcmp(name, "vector_add") == 0);
  CUmodule of;
  OK(cuFuncGetModule(&of, f));
  CHECK(of == k.module);
  CUdeviceptr table;
  size_t bytes;
  OK(cuModuleGetGlobal(&table, &bytes, k.module, "table"));
  SAME(bytes, size_t{64});
  char host[64];
  OK(cuMemcpyDtoH(host, table, 64));  // a variable without an initial value is zero
  CHECK(host[0] == 0 && host[63] == 0);
  unsigned three = 0;
  OK(cuModuleGetGlobal(&table, nullptr, k.module, "three"));
  OK(cuMemcpyDtoH(&three, table, 4));
  SAME(three, 3u);
  GIVES(CUDA_ERROR_NOT_FOUND, cuModuleGetGlobal(&table, &bytes, k.module, "four"), "no variable four");
  int regs = 0, version = 0, binary = 0;
  OK(cuFuncGetAttribute(&regs, CU_FUNC_ATTRIBUTE_NUM_REGS, f));
  CHECK(regs >= 16 && regs <= 255);
  OK(cuFuncGetAttribute(&version, CU_FUNC_ATTRIBUTE_PTX_VERSION, f));
  SAME(version, 80);
  OK(cuFuncGetAttribute(&binary, CU_FUNC_ATTRIBUTE_BINARY_VERSION, f));
  SAME(binary, 90);
  OK(cuFuncSetCacheConfig(f, CU_FUNC_CACHE_PREFER_SHARED));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuFuncSetCacheConfig(f, CUfunc_cache(4)), "preference 4");
  OK(cuFuncSetSharedMemConfig(f, CU_SHARED_MEM_CONFIG_DEFAULT_BANK_SIZE));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuFuncSetSharedMemConfig(f, CUsharedconfig(-1)), "bank size -1");
  OK(cuModuleUnload(k.module));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuModuleUnload(k.module), "a module that was destroyed");
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuModuleGetFunction(&f, k.module, "twice"), "destroyed");
  GIVES(CUDA_ERROR_INVALID_HANDLE, launch(f, 1, 1, 0, nullptr), "a function that was destroyed");
}

TEST(module_of_a_file) {
  start();
  std::string path = scratch("module.ptx");
  std::ofstream(path) << kPtx;
  CUmodule module;
  OK(cuModuleLoad(&module, path.c_str()));
  unlink(path.c_str());
  GIVES(CUDA_ERROR_FILE_NOT_FOUND, cuModuleLoad(&module, path.c_str()), "cannot be read");
}

TEST(images_that_are_no_module) {
  start();
  CUmodule m;
  GIVES(CUDA_ERROR_NO_BINARY_FOR_GPU, cuModuleLoadData(&m, "\x7f" "ELF......"), "cubin");
  const unsigned char fat[] = {0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0};
  GIVES(CUDA_ERROR_NO_BINARY_FOR_GPU, cuModuleLoadData(&m, fat), "fatbin");
  GIVES(CUDA_ERROR_NO_BINARY_FOR_GPU, cuModuleLoadFatBinary(&m, fat), "PTX text only");
  GIVES(CUDA_ERROR_INVALID_IMAGE, cuModuleLoadData(&m, ""), "empty");
  GIVES(CUDA_ERROR_INVALID_PTX, cuModuleLoadData(&m, "hello"), "");
  GIVES(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, cuModuleLoadData(&m, ".version 9.0\n.target sm_80\n.address_size 64\n"), "newer");
  GIVES(CUDA_ERROR_NO_BINARY_FOR_GPU, cuModuleLoadData(&m, ".version 8.4\n.target sm_100\n.address_size 64\n"), "");
}

TEST(old_driver_refuses_new_ptx, "SOFTCUDA_DRIVER_VERSION=11040") {
  start();
  CUmodule m;
  GIVES(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, cuModuleLoadData(&m, ".version 7.5\n.target sm_80\n.address_size 64\n"),
        "newer than this driver's, 7.4");
  OK(cuModuleLoadData(&m, ".version 7.4\n.target sm_80\n.address_size 64\n"));
}

TEST(old_device_refuses_new_target, "SOFTCUDA_CAPABILITY=8.0") {
  start();
  CUmodule m;
  GIVES(CUDA_ERROR_NO_BINARY_FOR_GPU, cuModuleLoadData(&m, ".version 8.0\n.target sm_90a\n.address_size 64\n"), "sm_90");
}

TEST(compiler_log) {
  start();
  std::string bad = kPtx;
  bad.replace(bad.find("add.f32"), 7, "abb.f32");
  char log[200];
  std::memset(log, 'x', sizeof log);
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, CU_JIT_OPTIMIZATION_LEVEL};
  void* values[] = {log, reinterpret_cast<void*>(sizeof log), reinterpret_cast<void*>(4)};
  CUmodule m;
  GIVES(CUDA_ERROR_INVALID_PTX, cuModuleLoadDataEx(&m, bad.c_str(), 3, options, values), "abb");
  CHECK(std::strstr(log, "abb"));
  SAME(reinterpret_cast<size_t>(values[1]), std::strlen(log));
  values[1] = reinterpret_cast<void*>(5);  // cut to the room there is
  SAME(cuModuleLoadDataEx(&m, bad.c_str(), 3, options, values), CUDA_ERROR_INVALID_PTX);
  SAME(std::strlen(log), size_t{4});
  values[1] = reinterpret_cast<void*>(sizeof log);
  OK(cuModuleLoadDataEx(&m, kPtx, 3, options, values));
  SAME(std::strlen(log), size_t{0});
  options[2] = CUjit_option(999);
  GIVES(CUDA_ERROR_INVALID_VALUE, cuModuleLoadDataEx(&m, kPtx, 3, options, values), "JIT option 999");
}

// The text ends where the page ends, and behind it is nothing that can be read.
TEST(text_without_its_nul) {
  start();
  size_t page = size_t(sysconf(_SC_PAGESIZE)), length = std::strlen(kPtx), pages = (length + page - 1) / page;
  void* p = nullptr;
  OK(cuMemAllocHost(&p, (pages + 1) * page));  // any pages do
  char* text = static_cast<char*>(p) + pages * page - length;
  std::memcpy(text, kPtx, length);
  std::memset(text + length, 1, page);
  CUmodule m;
  OK(cuModuleLoadData(&m, text));
  CHECK(std::strstr(softcudaLastFault(), "does not end with a NUL"));
}

TEST(faults_stick_to_the_context) {
  CUcontext context = start();
  Kernels k = load();
  CUfunction f = k["twice"];
  Word word(3);
  // As on a device the launch itself succeeds, and what follows tells.
  OK(launch(f, 1, 1, 0, nullptr, CUdeviceptr{16}));
  SAME(softcudaFaultCount("out-of-bounds"), 1ull);
  CHECK(std::strstr(softcudaLastFault(), "twice"));
  SAME(cuCtxSynchronize(), CUDA_ERROR_ILLEGAL_ADDRESS);
  unsigned value;
  SAME(cuMemcpyDtoH(&value, word.address, 4), CUDA_ERROR_ILLEGAL_ADDRESS);
  SAME(launch(f, 1, 1, 0, nullptr, word.address), CUDA_ERROR_ILLEGAL_ADDRESS);
  GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemFree(word.address), "sticks");
  GIVES(CUDA_ERROR_ILLEGAL_ADDRESS, cuModuleUnload(k.module), "sticks");
  CUcontext current;
  OK(cuCtxGetCurrent(&current));
  // Freeing freed, in spite of the error: nothing leaks.
  OK(cuCtxDestroy(context));
  SAME(softcudaFaultCount("leak"), 0ull);
  start();
  Word other(4);
  OK(launch(load()["twice"], 1, 1, 0, nullptr, other.address));
  SAME(other.get(), 8u);
}

TEST(blocking_launches_tell_at_once, "CUDA_LAUNCH_BLOCKING=1") {
  start();
  Kernels k = load();
  GIVES(CUDA_ERROR_MISALIGNED_ADDRESS, launch(k["twice"], 1, 1, 0, nullptr, Word(3).address + 1), "twice");
}

TEST(unwritten_memory_faults) {
  start();
  CUdeviceptr p;
  OK(cuMemAlloc(&p, 4));
  OK(launch(load()["twice"], 1, 1, 0, nullptr, p));
  CHECK(cuCtxSynchronize() != CUDA_SUCCESS);
  SAME(softcudaFaultCount("uninitialised"), 1ull);
}

TEST(extended_launches) {
  start();
  CUfunction f = load()["twice"];
  Word word(3);
  CUlaunchAttribute attributes[2] = {};
  attributes[0].id = CU_LAUNCH_ATTRIBUTE_PRIORITY;
  attributes[1].id = CU_LAUNCH_ATTRIBUTE_COOPERATIVE;
  attributes[1].value.cooperative = 1;
  CUlaunchConfig config = {1, 1, 1, 1, 1, 1, 0, nullptr, attributes, 2};
  void* params[] = {&word.address};
  OK(cuLaunchKernelEx(&config, f, params, nullptr));
  SAME(word.get(), 6u);
  config.gridDimX = 1000000;
  GIVES(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, cuLaunchKernelEx(&config, f, params, nullptr), "fit at once");
  config.gridDimX = 1;
  attributes[1].id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
  attributes[1].value.clusterDim = {2, 1, 1};
  GIVES(CUDA_ERROR_NOT_SUPPORTED, cuLaunchKernelEx(&config, f, params, nullptr), "clusters");
  attributes[1].id = CUlaunchAttributeID(77);
  GIVES(CUDA_ERROR_NOT_SUPPORTED, cuLaunchKernelEx(&config, f, params, nullptr), "attribute 77");
  OK(cuLaunchCooperativeKernel(f, 1, 1, 1, 1, 1, 1, 0, nullptr, params));
  SAME(word.get(), 12u);
}

TEST(kernels_of_another_context) {
  start();
  CUfunction f = load()["bounded"];
  start();
  GIVES(CUDA_ERROR_INVALID_HANDLE, launch(f, 1, 1, 0, nullptr), "another context");
}

TEST(occupancy) {
  start();
  Kernels k = load();
  int blocks = 0, grid = 0, size = 0;
  // 16 registers of a thread: 2048 threads of a multiprocessor decide.
  OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, k["bounded"], 64, 0));
  SAME(blocks, 32);
  OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, k["bounded"], 32, 0));
  SAME(blocks, 32);  // not 64: a multiprocessor holds 32 blocks
  // 228 KiB over 48 KiB + 1 KiB of the system.
  OK(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&blocks, k["bounded"], 64, 48 << 10, 0));
  SAME(blocks, 4);
  OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, k["bounded"], 65, 0));
  SAME(blocks, 0);
  GIVES(CUDA_ERROR_INVALID_VALUE, cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, k["bounded"], 0, 0), "0 threads");
  OK(cuOccupancyMaxPotentialBlockSize(&grid, &size, k["bounded"], nullptr, 0, 0));
  SAME(size, 64);
  SAME(grid, 32 * 132);
  OK(cuOccupancyMaxPotentialBlockSizeWithFlags(&grid, &size, k["vector_add"], [](int threads) { return size_t(threads) * 64; }, 0, 256, 0));
  CHECK(size > 0 && size <= 256 && grid % 132 == 0);
  size_t shared = 0;
  OK(cuOccupancyAvailableDynamicSMemPerBlock(&shared, k["bounded"], 2, 64));
  SAME(shared, size_t{113 << 10});
}
