// Device and host memory: allocation, copies and sets of every shape, what is refused, and
// what is told when a context ends.
#include "driver.h"

#include <numeric>
#include <thread>

namespace {

constexpr size_t kMiB = size_t{1} << 20;

std::vector<unsigned char> counting(size_t n) {
  std::vector<unsigned char> bytes(n);
  std::iota(bytes.begin(), bytes.end(), static_cast<unsigned char>(1));
  return bytes;
}

}  // namespace

TEST(copies_go_round) {
  start();
  std::vector<unsigned char> in = counting(1000), out(1000);
  CUdeviceptr a, b;
  OK(cuMemAlloc(&a, 1000));
  OK(cuMemAlloc(&b, 1000));
  SAME(a % 256, 0ull);
  OK(cuMemcpyHtoD(a, in.data(), 1000));
  OK(cuMemcpyDtoD(b + 10, a, 990));
  OK(cuMemcpyHtoD(b, in.data() + 990, 10));
  OK(cuMemcpyDtoH(out.data(), b, 1000));
  CHECK(std::memcmp(out.data() + 10, in.data(), 990) == 0);
  CHECK(std::memcmp(out.data(), in.data() + 990, 10) == 0);
  // cuMemcpy goes by address.
  std::vector<unsigned char> more(1000);
  OK(cuMemcpy(a, reinterpret_cast<CUdeviceptr>(out.data()), 1000));
  OK(cuMemcpy(reinterpret_cast<CUdeviceptr>(more.data()), a, 1000));
  CHECK(more == out);
  OK(cuMemcpy(reinterpret_cast<CUdeviceptr>(more.data()), reinterpret_cast<CUdeviceptr>(in.data()), 1000));
  CHECK(more == in);
}

TEST(copies_in_streams) {
  start();
  CUstream s;
  OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CUdeviceptr a, b;
  OK(cuMemAlloc(&a, 64));
  OK(cuMemAlloc(&b, 64));
  std::vector<unsigned char> in = counting(64), out(64);
  OK(cuMemcpyHtoDAsync(a, in.data(), 64, s));
  OK(cuMemcpyDtoDAsync(b, a, 64, s));
  OK(cuMemcpyDtoHAsync(out.data(), b, 64, s));
  OK(cuStreamSynchronize(s));
  CHECK(in == out);
  OK(cuMemcpyAsync(a, reinterpret_cast<CUdeviceptr>(out.data()), 64, CU_STREAM_PER_THREAD));
  GIVES(CUDA_ERROR_INVALID_HANDLE, cuMemcpyHtoDAsync(a, in.data(), 64, reinterpret_cast<CUstream>(in.data())),
        "never a handle");
}

TEST(sets_of_each_width) {
  start();
  CUdeviceptr a;
  OK(cuMemAlloc(&a, 64));
  unsigned char out[64];
  OK(cuMemsetD32(a, 0x01020304, 16));
  OK(cuMemsetD16(a + 4, 0xbbaa, 2));
  OK(cuMemsetD8(a + 9, 7, 3));
  OK(cuMemcpyDtoH(out, a, 64));
  const unsigned char want[16] = {4, 3, 2, 1, 0xaa, 0xbb, 0xaa, 0xbb, 4, 7, 7, 7, 4, 3, 2, 1};
  CHECK(std::memcmp(out, want, 16) == 0);
  OK(cuMemsetD32Async(a, 0, 16, nullptr));
  OK(cuMemsetD16Async(a, 1, 2, nullptr));
  OK(cuMemsetD8Async(a + 3, 9, 1, nullptr));
  OK(cuMemcpyDtoH(out, a, 64));
  const unsigned char after[5] = {1, 0, 1, 9, 0};
  CHECK(std::memcmp(out, after, 5) == 0);
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemsetD32(a + 2, 0, 1), "aligned");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemsetD8(a, 0, 65), "destination");
}

TEST(copies_of_two_and_three_dimensions) {
  start();
  CUdeviceptr a;
  size_t pitch = 0;
  OK(cuMemAllocPitch(&a, &pitch, 100, 6, 4));
  SAME(pitch, size_t{512});
  OK(cuMemsetD2D8(a, pitch, 0, 100, 6));
  OK(cuMemsetD2D32(a, pitch, 0x05050505, 2, 3));
  OK(cuMemsetD2D16Async(a, pitch, 0x0606, 1, 2, nullptr));
  std::vector<unsigned char> in = counting(12);
  CUDA_MEMCPY2D c = {};  // 3 rows of 4 bytes to column 8 of rows 1 to 3
  c.srcMemoryType = CU_MEMORYTYPE_HOST;
  c.srcHost = in.data();
  c.srcPitch = 4;
  c.dstMemoryType = CU_MEMORYTYPE_DEVICE;
  c.dstDevice = a;
  c.dstPitch = pitch;
  c.dstXInBytes = 8;
  c.dstY = 1;
  c.WidthInBytes = 4;
  c.Height = 3;
  OK(cuMemcpy2D(&c));
  unsigned char row[12];
  OK(cuMemcpyDtoH(row, a + 2 * pitch, 12));
  const unsigned char want[12] = {5, 5, 5, 5, 5, 5, 5, 5, 5, 6, 7, 8};
  CHECK(std::memcmp(row, want, 12) == 0);
  OK(cuMemcpyDtoH(row, a + 3 * pitch, 12));
  CHECK(row[0] == 0 && row[8] == 9);

  CUDA_MEMCPY3D d = {};  // 2 planes of 2 rows of 2 bytes, out of planes of 3 rows
  d.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  d.srcDevice = a;
  d.srcPitch = pitch;
  d.srcHeight = 3;
  d.srcXInBytes = 8;
  d.srcY = 1;
  d.dstMemoryType = CU_MEMORYTYPE_HOST;
  unsigned char out[8] = {};
  d.dstHost = out;
  d.dstPitch = 2;
  d.dstHeight = 2;
  d.WidthInBytes = d.Height = d.Depth = 2;
  OK(cuMemcpy3D(&d));
  const unsigned char cube[8] = {1, 2, 5, 6, 0, 0, 0, 0};
  CHECK(std::memcmp(out, cube, 8) == 0);
  // The same without alignment and in a stream; and the sets of each width that are left.
  OK(cuMemsetD2D8Async(a, pitch, 0, 100, 6, nullptr));
  OK(cuMemcpy2DUnaligned(&c));
  OK(cuMemcpyDtoH(row, a + 3 * pitch, 12));
  CHECK(row[0] == 0 && row[8] == 9 && row[11] == 12);
  OK(cuMemsetD2D16(a, pitch, 0x0201, 2, 2));
  OK(cuMemsetD2D32Async(a + 4, pitch, 0x04030201, 1, 2, nullptr));
  OK(cuMemcpyDtoH(row, a + pitch, 8));
  const unsigned char set[8] = {1, 2, 1, 2, 1, 2, 3, 4};
  CHECK(std::memcmp(row, set, 8) == 0);
  std::memset(out, 0, 8);
  OK(cuMemcpy3DAsync(&d, CU_STREAM_PER_THREAD));
  CHECK(std::memcmp(out, cube, 8) == 0);
  c.dstPitch = 8;
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpy2D(&c), "longer than the pitch");
  c.dstMemoryType = CU_MEMORYTYPE_ARRAY;
  GIVES(CUDA_ERROR_NOT_SUPPORTED, cuMemcpy2DAsync(&c, nullptr), "arrays");
}

TEST(bad_ranges_are_refused) {
  start();
  CUdeviceptr a;
  OK(cuMemAlloc(&a, 100));
  OK(cuMemsetD8(a, 0, 100));
  char host[256] = {};
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(a, host, 101), "destination");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoH(host, a + 1, 100), "source");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(a, nullptr, 4), "null");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(reinterpret_cast<CUdeviceptr>(host), host, 4), "no address of device memory");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(a, reinterpret_cast<void*>(a), 4), "is a device address");
  OK(cuMemFree(a));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(a, host, 4), "free");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFree(a), "not the start of memory");
  OK(cuMemFree(0));
  CUdeviceptr base;
  size_t size;
  GIVES(CUDA_ERROR_NOT_FOUND, cuMemGetAddressRange(&base, &size, a), "in no memory");
  OK(cuMemAlloc(&a, 100));
  OK(cuMemGetAddressRange(&base, &size, a + 50));
  CHECK(base == a && size == 100);
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFree(a + 4), "not the start of memory");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemAlloc(&a, 0), "0 bytes");
}

TEST(memory_runs_out, "SOFTCUDA_MEMORY=16777216") {
  start();
  size_t free, total;
  OK(cuMemGetInfo(&free, &total));
  CHECK(free == total && total == 16 * kMiB);
  CUdeviceptr a, b = 1;
  OK(cuMemAlloc(&a, 10 * kMiB));
  GIVES(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&b, 10 * kMiB), "SOFTCUDA_MEMORY");
  OK(cuMemGetInfo(&free, &total));
  CHECK(free <= 6 * kMiB);
  OK(cuMemFree(a));
  OK(cuMemAlloc(&b, 10 * kMiB));
  GIVES(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&a, SIZE_MAX - 1), "do not fit");
}

TEST(unwritten_memory_is_told) {
  start();
  CUdeviceptr a;
  OK(cuMemAlloc(&a, 16));
  OK(cuMemsetD8(a, 1, 8));
  char host[16];
  OK(cuMemcpyDtoH(host, a, 8));
  SAME(softcudaFaultCount("uninitialised"), 0ull);
  OK(cuMemcpyDtoH(host, a, 9));
  SAME(softcudaFaultCount("uninitialised"), 1ull);
  CHECK(std::strstr(softcudaLastFault(), "cuMemcpyDtoH_v2"));
}

TEST(unwritten_memory_fails_when_strict, "SOFTCUDA_STRICT=1") {
  start();
  CUdeviceptr a, b;
  OK(cuMemAlloc(&a, 16));
  OK(cuMemAlloc(&b, 16));
  char host[16];
  OK(cuMemcpyDtoD(b, a, 16));  // moving unwritten bytes is no reading of them
  GIVES(CUDA_ERROR_LAUNCH_FAILED, cuMemcpyDtoH(host, b, 16), "SOFTCUDA_STRICT");
  OK(cuMemsetD8(b, 0, 16));  // and nothing sticks
  OK(cuMemcpyDtoH(host, b, 16));
}

TEST(leaks_are_told) {
  CUcontext context = start();
  CUdeviceptr a;
  void* p;
  OK(cuMemAlloc(&a, 123));
  OK(cuMemAllocHost(&p, 45));
  OK(cuCtxDestroy(context));
  SAME(softcudaFaultCount("leak"), 1ull);
  CHECK(std::strstr(softcudaLastFault(), "2 allocations, 168 bytes"));
  CHECK(std::strstr(softcudaLastFault(), "cuMemAlloc_v2") && std::strstr(softcudaLastFault(), "cuMemAllocHost_v2"));
  size_t free, total;
  start();
  OK(cuMemGetInfo(&free, &total));
  SAME(free, total);  // the end of a context frees all it had
}

TEST(leaks_fail_when_strict, "SOFTCUDA_STRICT=1") {
  CUcontext context = start();
  CUdeviceptr a;
  OK(cuMemAlloc(&a, 123));
  GIVES(CUDA_ERROR_UNKNOWN, cuCtxDestroy(context), "leaked");
  context = start();
  OK(cuMemAlloc(&a, 123));
  OK(cuMemFree(a));
  OK(cuCtxDestroy(context));
}

TEST(host_memory) {
  start();
  char* p = nullptr;
  unsigned flags = 0;
  OK(cuMemHostAlloc(reinterpret_cast<void**>(&p), 5000, CU_MEMHOSTALLOC_WRITECOMBINED));
  SAME(reinterpret_cast<uintptr_t>(p) % 4096, uintptr_t{0});
  std::memset(p, 1, 5000);
  OK(cuMemHostGetFlags(&flags, p + 100));
  SAME(flags, unsigned(CU_MEMHOSTALLOC_WRITECOMBINED));
  CUdeviceptr d;
  GIVES(CUDA_ERROR_NOT_SUPPORTED, cuMemHostGetDevicePointer(&d, p, 0), "cannot reach host memory");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(p + 1), "not the start");
  OK(cuMemFreeHost(p));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(p), "not the start");
  SAME(softcudaFaultCount("host-overrun"), 0ull);
  OK(cuMemAllocHost(reinterpret_cast<void**>(&p), 100));
  p[100] = 1;
  OK(cuMemFreeHost(p));
  SAME(softcudaFaultCount("host-overrun"), 1ull);
  std::vector<char> own(64);
  OK(cuMemHostRegister(own.data(), 64, 0));
  GIVES(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, cuMemHostRegister(own.data() + 8, 8, 0), "pinned already");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(own.data()), "not the start");
  OK(cuMemHostUnregister(own.data()));
  GIVES(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(own.data()), "registered");
}

TEST(pointers_tell_what_they_are) {
  CUcontext context = start(), of = nullptr;
  CUdeviceptr a, start_of = 0;
  void* p;
  unsigned type = 0;
  int ordinal = -1;
  size_t size = 0;
  OK(cuMemAlloc(&a, 100));
  OK(cuMemAllocHost(&p, 10));
  OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, a + 5));
  SAME(type, unsigned(CU_MEMORYTYPE_DEVICE));
  OK(cuPointerGetAttribute(&of, CU_POINTER_ATTRIBUTE_CONTEXT, a));
  CHECK(of == context);
  OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, reinterpret_cast<CUdeviceptr>(p)));
  SAME(type, unsigned(CU_MEMORYTYPE_HOST));
  CUpointer_attribute which[] = {CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, CU_POINTER_ATTRIBUTE_RANGE_SIZE,
                                 CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
  void* data[] = {&start_of, &size, &ordinal};
  OK(cuPointerGetAttributes(3, which, data, a + 99));
  CHECK(start_of == a && size == 100 && ordinal == 0);
  OK(cuPointerGetAttributes(3, which, data, reinterpret_cast<CUdeviceptr>(&of)));
  CHECK(start_of == 0 && size == 0 && ordinal == CU_DEVICE_INVALID);
  GIVES(CUDA_ERROR_INVALID_VALUE, cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 42), "0x2a");
  unsigned on = 1;
  OK(cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_SYNC_MEMOPS, a));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuPointerSetAttribute(&on, CU_POINTER_ATTRIBUTE_MAPPED, a), "SYNC_MEMOPS");
  GIVES(CUDA_ERROR_INVALID_VALUE, cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_HOST_POINTER, a), "does not apply");
}

TEST(stream_ordered_memory) {
  start();
  CUstream s;
  OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
  CUmemoryPool pool;
  OK(cuDeviceGetDefaultMemPool(&pool, 0));
  CUdeviceptr a, b;
  cuuint64_t used = 1;
  OK(cuMemAllocAsync(&a, 1000, s));
  OK(cuMemAllocFromPoolAsync(&b, 24, pool, s));
  OK(cuMemsetD8Async(a, 3, 1000, s));
  OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
  SAME(used, cuuint64_t{1024});
  OK(cuMemFreeAsync(a, s));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemFreeAsync(a, s), "not the start of memory");
  OK(cuMemFree(b));
  OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
  SAME(used, cuuint64_t{0});
  OK(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &used));
  SAME(used, cuuint64_t{1024});
  used = UINT64_MAX;
  OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &used));
  GIVES(CUDA_ERROR_INVALID_VALUE, cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used), "cannot be set");
  OK(cuMemPoolTrimTo(pool, 0));
  OK(cuDeviceSetMemPool(0, pool));
  CUmemoryPool current;
  OK(cuDeviceGetMemPool(&current, 0));
  CHECK(current == pool);
}

TEST(threads_share_a_context) {
  CUcontext context = start();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&, t] {
      OK(cuCtxSetCurrent(context));
      std::vector<unsigned char> in(2000, static_cast<unsigned char>(t)), out(2000);
      for (int i = 0; i < 200; i++) {
        CUdeviceptr a;
        CUevent e;
        OK(cuMemAlloc(&a, 2000));
        OK(cuEventCreate(&e, 0));
        OK(cuMemcpyHtoDAsync(a, in.data(), 2000, CU_STREAM_PER_THREAD));
        OK(cuEventRecord(e, CU_STREAM_PER_THREAD));
        OK(cuEventSynchronize(e));
        OK(cuMemcpyDtoH(out.data(), a, 2000));
        CHECK(in == out);
        OK(cuEventDestroy(e));
        OK(cuMemFree(a));
      }
    });
  }
  for (std::thread& one : threads) one.join();
  OK(cuCtxDestroy(context));
  SAME(softcudaFaultCount(nullptr), 0ull);
}
