#include "attributes.h"

#include <climits>

namespace softcuda {
namespace {

// A device as its maker describes it; sizes in KiB, clocks in kHz.
struct Chip {
  int sm;
  int multiprocessors, threads, blocks, shared_kib, optin_kib;
  int clock, memory_clock, bus, l2;
  int async_engines, single_to_double;
};

constexpr Chip chips[] = {
    {80, 108, 2048, 32, 164, 163, 1410000, 1215000, 5120, 40 << 20, 3, 2},   // A100
    {86, 84, 1536, 16, 100, 99, 1695000, 9751000, 384, 6 << 20, 2, 64},      // GA102
    {87, 16, 1536, 16, 164, 163, 1300000, 3199000, 256, 4 << 20, 2, 64},     // Orin
    {89, 128, 1536, 24, 100, 99, 2520000, 10501000, 384, 72 << 20, 2, 64},   // AD102
    {90, 132, 2048, 32, 228, 227, 1980000, 2619000, 5120, 50 << 20, 3, 2},   // H100
};

// The newest chip that is not newer than the capability asked for.
const Chip& chip(const Config& c) {
  const Chip* best = &chips[0];
  for (const Chip& one : chips) {
    if (one.sm <= c.sm()) best = &one;
  }
  return *best;
}

}  // namespace

Limits limits(const Config& c) {
  const Chip& k = chip(c);
  Limits l;
  l.multiprocessors = k.multiprocessors;
  l.threads_per_multiprocessor = k.threads;
  l.blocks_per_multiprocessor = k.blocks;
  l.shared_per_multiprocessor = k.shared_kib << 10;
  l.shared_optin = k.optin_kib << 10;
  return l;
}

bool attribute(const Config& c, int ordinal, CUdevice_attribute which, int* value) {
  const Chip& k = chip(c);
  const Limits l = limits(c);
  const bool hopper = c.major >= 9;
  auto is = [&](int v) {
    *value = v;
    return true;
  };
  switch (which) {
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return is(l.threads_per_block);
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X: return is(1024);
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: return is(1024);
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: return is(64);
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: return is(INT_MAX);
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y: return is(65535);
    case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: return is(65535);
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return is(l.shared_default);
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return is(l.shared_optin);
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return is(l.shared_per_multiprocessor);
    case CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK: return is(l.shared_reserved);
    case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY: return is(64 << 10);
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return is(l.warp);
    case CU_DEVICE_ATTRIBUTE_MAX_PITCH: return is(INT_MAX);
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: return is(l.registers);
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: return is(l.registers);
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return is(l.multiprocessors);
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return is(l.threads_per_multiprocessor);
    case CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR: return is(l.blocks_per_multiprocessor);
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return is(k.clock);
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return is(k.memory_clock);
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: return is(k.bus);
    case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: return is(k.l2);
    case CU_DEVICE_ATTRIBUTE_MAX_PERSISTING_L2_CACHE_SIZE: return is(k.l2 / 8 * 5);
    case CU_DEVICE_ATTRIBUTE_MAX_ACCESS_POLICY_WINDOW_SIZE: return is(128 << 20);
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: return is(k.async_engines);
    case CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO: return is(k.single_to_double);
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return is(c.major);
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return is(c.minor);
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: return is(ordinal + 1);
    case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT: return is(512);
    case CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT: return is(32);
    case CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT: return is(512);
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE: return is(CU_COMPUTEMODE_DEFAULT);
    case CU_DEVICE_ATTRIBUTE_MEM_SYNC_DOMAIN_COUNT: return is(hopper ? 4 : 1);
    // What the software device does.
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
    case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
    case CU_DEVICE_ATTRIBUTE_ECC_ENABLED:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_COMPUTE_PREEMPTION_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_FUNCTION_POINTERS:
      return is(1);
    // What it does not do, or a device without textures, managed memory, peers, clusters,
    // other processes' memory and graphics has none of.
    default: break;
  }
  return which >= 1 && which < CU_DEVICE_ATTRIBUTE_MAX && is(0);
}

}  // namespace softcuda
