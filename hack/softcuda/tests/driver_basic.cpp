// Initialisation, devices, contexts, errors, and what every entry does when it is given
// nothing.
#include "driver.h"

#include <climits>
#include <set>
#include <thread>

namespace {

// Every entry, called as if all its arguments were null or 0: further integer arguments
// do no harm in the calling conventions of amd64 and arm64.
using AnyEntry = CUresult (*)(long, long, long, long, long, long, long, long, long, long, long, long);

struct Named {
  const char* name;
  AnyEntry call;
  CUresult with_nothing() const { return call(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0); }
};

const Named every[] = {
#define ENTRY(symbol, base, since) {#symbol, reinterpret_cast<AnyEntry>(&symbol)},
#include "../src/driver/entries.inc"
#undef ENTRY
};

// Those that do without cuInit.
const std::set<std::string> early = {"cuInit", "cuGetErrorName", "cuGetErrorString", "cuDriverGetVersion",
                                     "cuGetProcAddress_v2"};

}  // namespace

TEST(every_entry_is_refused_before_init) {
  for (const Named& one : every) {
    if (early.count(one.name)) continue;
    CUresult result = one.with_nothing();
    if (result != CUDA_ERROR_NOT_INITIALIZED) failed(__FILE__, __LINE__, std::string(one.name) + " gave " + std::to_string(result));
    if (!std::strstr(softcudaLastFault(), one.name)) failed(__FILE__, __LINE__, std::string(one.name) + " is not named");
  }
}

TEST(no_entry_crashes_without_context_or_arguments) {
  OK(cuInit(0));
  // With nothing in hand these are right all the same: 0 is a device, a null context or pointer may be set or freed.
  const std::set<std::string> good = {"cuInit", "cuCtxSetCurrent", "cuDevicePrimaryCtxReset_v2",
                                      "cuDevicePrimaryCtxSetFlags_v2"};
  for (const Named& one : every) {
    CUresult result = one.with_nothing();
    if (result == CUDA_SUCCESS && !good.count(one.name)) failed(__FILE__, __LINE__, std::string(one.name) + " succeeded");
  }
}

TEST(no_entry_crashes_without_arguments) {
  start();
  const std::set<std::string> good = {
      "cuInit", "cuCtxSetCurrent", "cuDevicePrimaryCtxReset_v2", "cuDevicePrimaryCtxSetFlags_v2", "cuCtxSynchronize",
      "cuCtxSetFlags", "cuCtxSetLimit", "cuCtxSetCacheConfig", "cuCtxSetSharedMemConfig", "cuCtxGetStreamPriorityRange",
      "cuCtxResetPersistingL2Cache", "cuMemFree_v2", "cuMemFreeHost", "cuStreamSynchronize", "cuStreamQuery",
      "cuCtxPopCurrent_v2",
      // Copies and sets of no bytes.
      "cuMemcpy", "cuMemcpyAsync", "cuMemcpyHtoD_v2", "cuMemcpyDtoH_v2", "cuMemcpyDtoD_v2", "cuMemcpyHtoDAsync_v2",
      "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2", "cuMemsetD8_v2", "cuMemsetD16_v2", "cuMemsetD32_v2",
      "cuMemsetD2D8_v2", "cuMemsetD2D16_v2", "cuMemsetD2D32_v2", "cuMemsetD8Async", "cuMemsetD16Async",
      "cuMemsetD32Async", "cuMemsetD2D8Async", "cuMemsetD2D16Async", "cuMemsetD2D32Async"};
  for (const Named& one : every) {
    CUcontext context = nullptr;
    OK(cuCtxGetCurrent(&context));
    if (!context) start();
    CUresult result = one.with_nothing();
    if ((result == CUDA_SUCCESS) != bool(good.count(one.name))) {
      failed(__FILE__, __LINE__, std::string(one.name) + " gave " + std::to_string(result));
    }
  }
}

TEST(unsupported_entries_say_so) {
  start();
  int unsupported = 0;
  for (const Named& one : every) {
    CUcontext context = nullptr;
    OK(cuCtxGetCurrent(&context));
    if (!context) start();
    if (one.with_nothing() != CUDA_ERROR_NOT_SUPPORTED) continue;
    unsupported++;
    if (!std::strstr(softcudaLastFault(), one.name) || !std::strstr(softcudaLastFault(), "the software device has no ")) {
      failed(__FILE__, __LINE__, std::string(one.name) + " does not say what is missing");
    }
  }
  SAME(unsupported, 63);
  CUdeviceptr p = 0;
  GIVES(CUDA_ERROR_NOT_SUPPORTED, cuMemAllocManaged(&p, 4, CU_MEM_ATTACH_GLOBAL), "cuMemAllocManaged");
  GIVES(CUDA_ERROR_NOT_SUPPORTED, cuMemcpyPeer(0, nullptr, 0, nullptr, 4), "cuMemcpyPeer");
  CUtexref t;
  GIVES(CUDA_ERROR_NOT_SUPPORTED, cuTexRefCreate(&t), "textures");
  CUlinkState l;
  GIVES(CUDA_ERROR_NOT_SUPPORTED, cuLinkCreate(0, nullptr, nullptr, &l), "linker");
}

TEST(devices_none, "SOFTCUDA_DEVICES=0") {
  GIVES(CUDA_ERROR_NO_DEVICE, cuInit(0), "SOFTCUDA_DEVICES is 0");
  int count;
  GIVES(CUDA_ERROR_NOT_INITIALIZED, cuDeviceGetCount(&count), "cuInit");
}

TEST(devices_two, "SOFTCUDA_DEVICES=2", "SOFTCUDA_MEMORY=67108864") {
  OK(cuInit(0));
  int count = 0;
  OK(cuDeviceGetCount(&count));
  SAME(count, 2);
  CUdevice one, two;
  OK(cuDeviceGet(&one, 0));
  OK(cuDeviceGet(&two, 1));
  GIVES(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&one, 2), "device 2 of 2");
  GIVES(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&one, -1), "device -1");
  CUuuid a, b;
  OK(cuDeviceGetUuid(&a, one));
  OK(cuDeviceGetUuid(&b, two));
  CHECK(std::memcmp(a.bytes, b.bytes, 16) != 0);
  size_t bytes = 0;
  OK(cuDeviceTotalMem(&bytes, two));
  SAME(bytes, size_t{64} << 20);
  int can = 1;
  OK(cuDeviceCanAccessPeer(&can, one, two));
  SAME(can, 0);
  OK(cuDeviceGetP2PAttribute(&can, CU_DEVICE_P2P_ATTRIBUTE_ACCESS_SUPPORTED, two, one));
  SAME(can, 0);
  GIVES(CUDA_ERROR_INVALID_VALUE, cuDeviceGetP2PAttribute(&can, CUdevice_P2PAttribute(9), two, one), "peer attribute 9");
  GIVES(CUDA_ERROR_INVALID_DEVICE, cuDeviceCanAccessPeer(&can, one, one), "its own peer");
  char id[32];
  OK(cuDeviceGetPCIBusId(id, sizeof id, two));
  CUdevice found = -1;
  OK(cuDeviceGetByPCIBusId(&found, id));
  SAME(found, two);
  // Memory of one device is refused on the other, and each has its own.
  CUcontext first, second;
  OK(cuCtxCreate(&first, 0, one));
  CUdeviceptr p;
  OK(cuMemAlloc(&p, 16));
  OK(cuMemsetD8(p, 1, 16));
  OK(cuCtxCreate(&second, 0, two));
  char host[16];
  GIVES(CUDA_ERROR_NOT_SUPPORTED, cuMemcpyDtoH(host, p, 16), "another device");
  CUdevice current;
  OK(cuCtxGetDevice(&current));
  SAME(current, two);
}

TEST(hopper_attributes) {
  OK(cuInit(0));
  auto get = [](CUdevice_attribute which) {
    int value = -1;
    OK(cuDeviceGetAttribute(&value, which, 0));
    return value;
  };
  SAME(get(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR), 9);
  SAME(get(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR), 0);
  SAME(get(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT), 132);
  SAME(get(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK), 49152);
  SAME(get(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), 227 * 1024);
  SAME(get(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR), 228 * 1024);
  SAME(get(CU_DEVICE_ATTRIBUTE_WARP_SIZE), 32);
  SAME(get(CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X), INT_MAX);
  SAME(get(CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY), 0);
  for (int i = 1; i < CU_DEVICE_ATTRIBUTE_MAX; i++) CHECK(get(CUdevice_attribute(i)) >= 0);
  int value;
  GIVES(CUDA_ERROR_INVALID_VALUE, cuDeviceGetAttribute(&value, CUdevice_attribute(0), 0), "attribute 0");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX, 0), "attribute 135");
  CUdevprop prop;
  OK(cuDeviceGetProperties(&prop, 0));
  SAME(prop.maxThreadsPerBlock, 1024);
  SAME(prop.maxGridSize[1], 65535);
  char name[8];
  OK(cuDeviceGetName(name, sizeof name, 0));
  CHECK(std::strcmp(name, "Softwar") == 0);  // cut to the buffer, and ended
}

TEST(ampere_attributes, "SOFTCUDA_CAPABILITY=8.0", "SOFTCUDA_DRIVER_VERSION=11040") {
  OK(cuInit(0));
  int major, minor, value, version;
  OK(cuDeviceComputeCapability(&major, &minor, 0));
  SAME(major, 8);
  SAME(minor, 0);
  OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0));
  SAME(value, 163 * 1024);
  OK(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 0));
  SAME(value, 108);
  OK(cuDriverGetVersion(&version));
  SAME(version, 11040);
}

TEST(bad_knob_is_told, "SOFTCUDA_MEMORY=lots") {
  GIVES(CUDA_ERROR_INVALID_VALUE, cuInit(0), "SOFTCUDA_MEMORY=lots");
}

TEST(bad_injection_is_told, "SOFTCUDA_FAIL=cuMemAlloc_v2:0:2") {
  GIVES(CUDA_ERROR_INVALID_VALUE, cuInit(0), "cuMemAlloc_v2:0:2");
}

TEST(errors_have_names) {
  const char* text = nullptr;
  OK(cuGetErrorName(CUDA_ERROR_ILLEGAL_ADDRESS, &text));
  CHECK(std::strcmp(text, "CUDA_ERROR_ILLEGAL_ADDRESS") == 0);
  OK(cuGetErrorString(CUDA_ERROR_OUT_OF_MEMORY, &text));
  CHECK(std::strcmp(text, "out of memory") == 0);
  SAME(cuGetErrorName(CUresult(12345), &text), CUDA_ERROR_INVALID_VALUE);
  CHECK(text == nullptr);
}

TEST(contexts_stack) {
  OK(cuInit(0));
  CUcontext none = reinterpret_cast<CUcontext>(1);
  OK(cuCtxGetCurrent(&none));
  CHECK(none == nullptr);
  CUdeviceptr p;
  GIVES(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc(&p, 4), "no context is current");
  CUcontext a, b, popped, current;
  OK(cuCtxCreate(&a, CU_CTX_SCHED_BLOCKING_SYNC, 0));
  OK(cuCtxCreate(&b, 0, 0));
  unsigned flags = 99;
  OK(cuCtxGetFlags(&flags));
  SAME(flags, 0u);
  OK(cuCtxPopCurrent(&popped));
  CHECK(popped == b);
  OK(cuCtxGetFlags(&flags));
  SAME(flags, unsigned(CU_CTX_SCHED_BLOCKING_SYNC));
  OK(cuCtxPushCurrent(b));
  unsigned version = 0;
  OK(cuCtxGetApiVersion(b, &version));
  SAME(version, 3020u);
  OK(cuCtxDestroy(b));
  OK(cuCtxGetCurrent(&current));
  CHECK(current == a);
  GIVES(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy(b), "destroyed");
  GIVES(CUDA_ERROR_INVALID_CONTEXT, cuCtxSetCurrent(b), "destroyed");
  GIVES(CUDA_ERROR_INVALID_CONTEXT, cuCtxPushCurrent(reinterpret_cast<CUcontext>(&p)), "never a handle");
  OK(cuCtxSetCurrent(nullptr));
  GIVES(CUDA_ERROR_INVALID_CONTEXT, cuCtxPopCurrent(nullptr), "no context");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuCtxCreate(&a, 0x700, 0), "flags");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuCtxCreate(&a, CU_CTX_SCHED_SPIN | CU_CTX_SCHED_YIELD, 0), "flags");
}

TEST(context_destroyed_under_another_thread) {
  CUcontext context = start();
  std::thread other([&] {
    CUdevice device;
    GIVES(CUDA_ERROR_INVALID_CONTEXT, cuCtxGetDevice(&device), "no context");  // current is a thread's own
    OK(cuCtxSetCurrent(context));
    OK(cuCtxGetDevice(&device));
    OK(cuCtxDestroy(context));
    GIVES(CUDA_ERROR_INVALID_CONTEXT, cuCtxPushCurrent(nullptr), "null handle");
  });
  other.join();
  CUdeviceptr p;
  GIVES(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuMemAlloc(&p, 4), "destroyed");
}

TEST(primary_context) {
  OK(cuInit(0));
  unsigned flags;
  int active;
  OK(cuDevicePrimaryCtxSetFlags(0, CU_CTX_SCHED_YIELD));
  OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
  SAME(active, 0);
  SAME(flags, unsigned(CU_CTX_SCHED_YIELD));
  CUcontext a, b;
  OK(cuDevicePrimaryCtxRetain(&a, 0));
  OK(cuDevicePrimaryCtxRetain(&b, 0));
  CHECK(a == b);
  OK(cuCtxSetCurrent(a));
  GIVES(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy(a), "primary");
  OK(cuDevicePrimaryCtxRelease(0));
  OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
  SAME(active, 1);
  OK(cuDevicePrimaryCtxRelease(0));
  OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
  SAME(active, 0);
  GIVES(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease(0), "not retained");
  GIVES(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuCtxSynchronize(), "destroyed");
  OK(cuDevicePrimaryCtxRetain(&b, 0));
  OK(cuDevicePrimaryCtxReset(0));
  OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
  SAME(active, 0);
}

TEST(context_settings) {
  start();
  size_t value = 0;
  OK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 4096));
  OK(cuCtxGetLimit(&value, CU_LIMIT_STACK_SIZE));
  SAME(value, size_t{4096});
  GIVES(CUDA_ERROR_UNSUPPORTED_LIMIT, cuCtxGetLimit(&value, CU_LIMIT_MAX), "limit 7");
  CUfunc_cache cache;
  OK(cuCtxSetCacheConfig(CU_FUNC_CACHE_PREFER_L1));
  OK(cuCtxGetCacheConfig(&cache));
  CHECK(cache == CU_FUNC_CACHE_PREFER_L1);
  GIVES(CUDA_ERROR_INVALID_VALUE, cuCtxSetCacheConfig(CUfunc_cache(9)), "preference 9");
  int least, greatest;
  OK(cuCtxGetStreamPriorityRange(&least, &greatest));
  CHECK(least == 0 && greatest < 0);
  CUsharedconfig banks;
  OK(cuCtxSetSharedMemConfig(CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE));
  OK(cuCtxGetSharedMemConfig(&banks));
  SAME(banks, CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE);  // without effect, as on today's devices
  GIVES(CUDA_ERROR_INVALID_VALUE, cuCtxSetSharedMemConfig(CUsharedconfig(3)), "bank size 3");
  unsigned flags = 0;
  OK(cuCtxSetFlags(CU_CTX_SCHED_SPIN));
  OK(cuCtxGetFlags(&flags));
  SAME(flags, unsigned(CU_CTX_SCHED_SPIN));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuCtxSetFlags(3), "flags");
  OK(cuCtxResetPersistingL2Cache());
  unsigned long long id = 0, other = 0;
  OK(cuCtxGetId(nullptr, &id));
  start();
  OK(cuCtxGetId(nullptr, &other));
  CHECK(id != other);
}

TEST(entries_by_name) {
  void* p = nullptr;
  CUdriverProcAddressQueryResult status;
  OK(cuGetProcAddress("cuMemAlloc", &p, 12040, CU_GET_PROC_ADDRESS_DEFAULT, &status));
  CHECK(p == reinterpret_cast<void*>(&cuMemAlloc_v2));
  CHECK(status == CU_GET_PROC_ADDRESS_SUCCESS);
  // The newest that the version has: so it is on a device, where cuCtxCreate takes four arguments then.
  OK(cuGetProcAddress("cuCtxCreate", &p, 12040, 0, &status));
  CHECK(p == reinterpret_cast<void*>(&cuCtxCreate_v3));
  OK(cuGetProcAddress("cuCtxCreate", &p, 11000, 0, &status));
  CHECK(p == reinterpret_cast<void*>(&cuCtxCreate_v2));
  GIVES(CUDA_ERROR_NOT_FOUND, cuGetProcAddress("cuMemAllocAsync", &p, 11000, 0, &status), "newer than CUDA 11000");
  CHECK(status == CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT && p == nullptr);
  GIVES(CUDA_ERROR_NOT_FOUND, cuGetProcAddress("cuNothing", &p, 12040, 0, &status), "no entry");
  CHECK(status == CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
}
