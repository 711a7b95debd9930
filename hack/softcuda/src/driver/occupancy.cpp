#include "occupancy.h"

#include <algorithm>

#include "attributes.h"

namespace softcuda {
namespace {

int round_up(int value, int unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

int registers(const KernelInfo& info) {
  // What a thread can have at most is set by the launch bounds: all registers over the
  // threads of one block, in eights, and 255.
  int most = std::min(255, limits(config()).registers / round_up(int(info.max_threads), 128) / 8 * 8);
  return std::clamp(int(info.regs), 16, most);
}

int blocks_per_multiprocessor(const Function& function, int threads, size_t dynamic_shared) {
  const Limits l = limits(config());
  const KernelInfo& info = *function.info;
  if (threads <= 0 || threads > int(info.max_threads)) return 0;
  int warps = (threads + l.warp - 1) / l.warp;
  // Registers are given to a warp in units of 256.
  int by_registers = l.registers / (round_up(registers(info) * l.warp, 256) * warps);
  int shared = round_up(int(info.static_shared + dynamic_shared) + l.shared_reserved, 128);
  int by_shared = l.shared_per_multiprocessor / shared;
  int by_threads = l.threads_per_multiprocessor / (warps * l.warp);
  return std::min({by_registers, by_shared, by_threads, l.blocks_per_multiprocessor});
}

}  // namespace softcuda

using namespace softcuda;

namespace {

CUresult find_function(Call& call, CUfunction handle, std::shared_ptr<Function>* out) {
  *out = find<Function>(call, handle);
  return *out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

CUresult active_blocks(Entry& entry, int* out, CUfunction handle, int threads, size_t shared, unsigned flags) {
  return entry.call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, out, "numBlocks"));
    std::shared_ptr<Function> function;
    SOFTCUDA_TRY(find_function(call, handle, &function));
    if (threads <= 0) return call.fail(CUDA_ERROR_INVALID_VALUE, "the block has " + std::to_string(threads) + " threads");
    if (flags & ~unsigned(CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE)) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "flags " + hex(flags) + " are not valid");
    }
    *out = blocks_per_multiprocessor(*function, threads, shared);
    return CUDA_SUCCESS;
  });
}

// The block with the most threads on a multiprocessor; the larger one of equals.
CUresult best_block(Entry& entry, int* grid, int* block, CUfunction handle, CUoccupancyB2DSize shared_of,
                    size_t shared, int limit, unsigned flags) {
  return entry.call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, grid, "minGridSize"));
    SOFTCUDA_TRY(need(call, block, "blockSize"));
    std::shared_ptr<Function> function;
    SOFTCUDA_TRY(find_function(call, handle, &function));
    if (limit < 0 || (flags & ~unsigned(CU_OCCUPANCY_DISABLE_CACHING_OVERRIDE))) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "the limit or the flags are not valid");
    }
    const Limits l = limits(config());
    int most = int(function->info->max_threads);
    if (limit && limit < most) most = limit;
    int best_threads = 0, best_blocks = 0;
    *block = 0;
    for (int threads = round_up(most, l.warp); threads > 0; threads -= l.warp) {
      int own = std::min(threads, most);
      int blocks = blocks_per_multiprocessor(*function, own, shared_of ? shared_of(own) : shared);
      if (own * blocks <= best_threads) continue;
      best_threads = own * blocks;
      best_blocks = blocks;
      *block = own;
    }
    *grid = best_blocks * l.multiprocessors;
    return CUDA_SUCCESS;
  });
}

}  // namespace

SOFTCUDA_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction f, int threads,
                                                                  size_t shared) {
  return active_blocks(THIS_ENTRY(cuOccupancyMaxActiveBlocksPerMultiprocessor), blocks, f, threads, shared, 0);
}

SOFTCUDA_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction f, int threads,
                                                                           size_t shared, unsigned int flags) {
  return active_blocks(THIS_ENTRY(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags), blocks, f, threads, shared,
                       flags);
}

SOFTCUDA_API CUresult cuOccupancyMaxPotentialBlockSize(int* grid, int* block, CUfunction f,
                                                       CUoccupancyB2DSize shared_of, size_t shared, int limit) {
  return best_block(THIS_ENTRY(cuOccupancyMaxPotentialBlockSize), grid, block, f, shared_of, shared, limit, 0);
}

SOFTCUDA_API CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* block, CUfunction f,
                                                                CUoccupancyB2DSize shared_of, size_t shared, int limit,
                                                                unsigned int flags) {
  return best_block(THIS_ENTRY(cuOccupancyMaxPotentialBlockSizeWithFlags), grid, block, f, shared_of, shared, limit,
                    flags);
}

SOFTCUDA_API CUresult cuOccupancyAvailableDynamicSMemPerBlock(size_t* out, CUfunction handle, int blocks,
                                                              int threads) {
  return THIS_ENTRY(cuOccupancyAvailableDynamicSMemPerBlock).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, out, "dynamicSmemSize"));
    std::shared_ptr<Function> function;
    SOFTCUDA_TRY(find_function(call, handle, &function));
    if (blocks <= 0 || blocks_per_multiprocessor(*function, threads, 0) < blocks) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, std::to_string(blocks) + " blocks of " + std::to_string(threads) +
                                                     " threads do not fit a multiprocessor");
    }
    const Limits l = limits(config());
    int each = l.shared_per_multiprocessor / blocks / 128 * 128 - l.shared_reserved;
    each = std::min(each, l.shared_optin) - int(function->info->static_shared);
    *out = size_t(std::max(each, 0));
    return CUDA_SUCCESS;
  });
}
