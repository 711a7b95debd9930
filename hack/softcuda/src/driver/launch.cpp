// Launches: what a kernel may be launched with, its parameters, and running it.
#include <cstring>

#include "../report.h"
#include "attributes.h"
#include "counters.h"
#include "occupancy.h"
#include "work.h"

namespace softcuda {
namespace {

std::string dims(unsigned x, unsigned y, unsigned z) {
  return std::to_string(x) + " x " + std::to_string(y) + " x " + std::to_string(z);
}

CUresult check_dimensions(Call& call, const CUDA_KERNEL_NODE_PARAMS& p, const KernelInfo& info) {
  auto refuse = [&](CUresult error, const std::string& why) {
    return call.fail(error, "kernel " + info.name + ": " + why);
  };
  std::string grid = dims(p.gridDimX, p.gridDimY, p.gridDimZ), block = dims(p.blockDimX, p.blockDimY, p.blockDimZ);
  if (!p.gridDimX || !p.gridDimY || !p.gridDimZ) return refuse(CUDA_ERROR_INVALID_VALUE, "the grid " + grid + " is empty");
  if (!p.blockDimX || !p.blockDimY || !p.blockDimZ) {
    return refuse(CUDA_ERROR_INVALID_VALUE, "the block " + block + " is empty");
  }
  if (p.gridDimX > 0x7fffffffu || p.gridDimY > 65535 || p.gridDimZ > 65535) {
    return refuse(CUDA_ERROR_INVALID_VALUE, "the grid " + grid + " is beyond 2147483647 x 65535 x 65535");
  }
  uint64_t threads = uint64_t{p.blockDimX} * p.blockDimY * p.blockDimZ;
  if (p.blockDimX > 1024 || p.blockDimY > 1024 || p.blockDimZ > 64 ||
      threads > uint64_t(limits(config()).threads_per_block)) {
    return refuse(CUDA_ERROR_INVALID_VALUE,
                  "the block " + block + " is beyond 1024 x 1024 x 64 or beyond 1024 threads");
  }
  const unsigned* wanted = info.required_block;
  if (wanted[0] && (p.blockDimX != wanted[0] || p.blockDimY != wanted[1] || p.blockDimZ != wanted[2])) {
    return refuse(CUDA_ERROR_LAUNCH_FAILED, "the block " + block + " is not the one of its .reqntid, " +
                                                dims(wanted[0], wanted[1], wanted[2]));
  }
  if (threads > info.max_threads) {
    return refuse(CUDA_ERROR_INVALID_VALUE, "the block " + block + " has more threads than its .maxntid allows, " +
                                                std::to_string(info.max_threads));
  }
  return CUDA_SUCCESS;
}

CUresult check_shared(Call& call, const Function& function, unsigned dynamic) {
  const Limits l = limits(config());
  size_t fixed = function.info->static_shared;
  size_t allowed = std::max<size_t>(size_t(l.shared_default) > fixed ? size_t(l.shared_default) - fixed : 0,
                                    size_t(function.dynamic_shared_limit));
  if (dynamic <= allowed) return CUDA_SUCCESS;
  return call.fail(CUDA_ERROR_INVALID_VALUE,
                   "kernel " + function.info->name + ": " + std::to_string(dynamic) + " bytes of dynamic shared memory, " +
                       std::to_string(allowed) + " are allowed beside its static " + std::to_string(fixed) +
                       "; raise it by cuFuncSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES), up to " +
                       std::to_string(l.shared_optin) + " in all");
}

// Parameters from the one buffer of `extra`.
CUresult take_buffer(Call& call, const KernelInfo& info, void** extra, std::vector<uint8_t>* out) {
  const void* buffer = nullptr;
  const size_t* size = nullptr;
  for (size_t i = 0; extra[i] != CU_LAUNCH_PARAM_END; i += 2) {
    if (extra[i] == CU_LAUNCH_PARAM_BUFFER_POINTER) {
      buffer = extra[i + 1];
    } else if (extra[i] == CU_LAUNCH_PARAM_BUFFER_SIZE) {
      size = static_cast<const size_t*>(extra[i + 1]);
    } else {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "extra has an option that is none");
    }
  }
  if (!buffer || !size) return call.fail(CUDA_ERROR_INVALID_VALUE, "extra has no buffer or no size");
  if (*size < info.param_bytes) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "kernel " + info.name + " has " + std::to_string(info.param_bytes) +
                                                   " bytes of parameters, the buffer of extra " + std::to_string(*size));
  }
  std::memcpy(out->data(), buffer, info.param_bytes);
  return CUDA_SUCCESS;
}

CUresult take_parameters(Call& call, const KernelInfo& info, void** params, void** extra, std::vector<uint8_t>* out) {
  out->assign(info.param_bytes, 0);
  if (params && extra) return call.fail(CUDA_ERROR_INVALID_VALUE, "both kernelParams and extra are given");
  if (info.param_sizes.empty()) return CUDA_SUCCESS;
  if (extra) return take_buffer(call, info, extra, out);
  if (!params) {
    return call.fail(CUDA_ERROR_INVALID_VALUE, "kernel " + info.name + " has " +
                                                   std::to_string(info.param_sizes.size()) +
                                                   " parameters, and neither kernelParams nor extra is given");
  }
  for (size_t i = 0; i < info.param_sizes.size(); i++) {
    if (!params[i]) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "kernel " + info.name + ": kernelParams[" + std::to_string(i) + "] is null");
    }
    std::memcpy(out->data() + info.param_offsets[i], params[i], info.param_sizes[i]);
  }
  return CUDA_SUCCESS;
}

}  // namespace

CUresult make_launch(Call& call, const CUDA_KERNEL_NODE_PARAMS& p, bool cooperative, Launch* out) {
  if (p.kern) return call.fail(CUDA_ERROR_NOT_SUPPORTED, "kernels of libraries (CUkernel) are not supported");
  out->function = find<Function>(call, p.func);
  if (!out->function) return CUDA_ERROR_INVALID_HANDLE;
  const KernelInfo& info = *out->function->info;
  SOFTCUDA_TRY(check_dimensions(call, p, info));
  SOFTCUDA_TRY(check_shared(call, *out->function, p.sharedMemBytes));
  SOFTCUDA_TRY(take_parameters(call, info, p.kernelParams, p.extra, &out->parameters));
  out->grid = {p.gridDimX, p.gridDimY, p.gridDimZ};
  out->block = {p.blockDimX, p.blockDimY, p.blockDimZ};
  out->dynamic_shared = p.sharedMemBytes;
  out->cooperative = cooperative;
  if (!cooperative) return CUDA_SUCCESS;
  int together = blocks_per_multiprocessor(*out->function, int(out->block.count()), p.sharedMemBytes) *
                 limits(config()).multiprocessors;
  if (out->grid.count() <= uint64_t(together)) return CUDA_SUCCESS;
  return call.fail(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "kernel " + info.name + ": " +
                                                                std::to_string(out->grid.count()) + " blocks, " +
                                                                std::to_string(together) + " fit at once");
}

CUresult perform_launch(Call& call, Context& context, const Launch& launch) {
  Counters counters;
  Fault fault;
  const KernelInfo& info = *launch.function->info;
  bool good = run(*launch.function->program, info, launch.grid, launch.block, launch.dynamic_shared,
                  launch.parameters.data(), *context.device->memory, config().threads, &counters, &fault);
  note_launch(info.name, counters);
  if (good) return CUDA_SUCCESS;
  report(fault);
  int error = fault.error ? fault.error : CUDA_ERROR_LAUNCH_FAILED;
  context.error = error;
  // As on a device, where the launch is long gone when the kernel faults: the error is
  // that of every later call.
  if (!config().blocking) return CUDA_SUCCESS;
  return call.fail(CUresult(error), describe(fault));
}

}  // namespace softcuda

using namespace softcuda;

namespace {

CUresult launch(Call& call, const CUDA_KERNEL_NODE_PARAMS& params, CUstream handle, bool cooperative) {
  std::shared_ptr<Stream> stream = find_stream(call, handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  Launch work;
  SOFTCUDA_TRY(make_launch(call, params, cooperative, &work));
  if (work.function->context.lock() != call.context) {
    return call.fail(CUDA_ERROR_INVALID_HANDLE,
                     "kernel " + work.function->info->name + " was loaded in another context than the current one");
  }
  return enqueue(call, stream, std::move(work));
}

// Takes the attributes of a launch; those that only steer speed have no effect.
CUresult take_attributes(Call& call, const CUlaunchConfig& config, bool* cooperative) {
  if (config.numAttrs && !config.attrs) return call.fail(CUDA_ERROR_INVALID_VALUE, "attrs is null");
  for (unsigned i = 0; i < config.numAttrs; i++) {
    const CUlaunchAttribute& one = config.attrs[i];
    switch (one.id) {
      case CU_LAUNCH_ATTRIBUTE_IGNORE:
      case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
      case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
      case CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE:
      case CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION:
      case CU_LAUNCH_ATTRIBUTE_PRIORITY:
      case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
      case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
        break;
      case CU_LAUNCH_ATTRIBUTE_COOPERATIVE:
        *cooperative = one.value.cooperative != 0;
        break;
      case CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION:
        if (one.value.clusterDim.x == 1 && one.value.clusterDim.y == 1 && one.value.clusterDim.z == 1) break;
        return call.fail(CUDA_ERROR_NOT_SUPPORTED, "clusters of more than one block are not supported");
      default:
        return call.fail(CUDA_ERROR_NOT_SUPPORTED, "launch attribute " + std::to_string(int(one.id)) + " is not supported");
    }
  }
  return CUDA_SUCCESS;
}

}  // namespace

SOFTCUDA_API CUresult cuLaunchKernel(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz, unsigned int bx,
                                     unsigned int by, unsigned int bz, unsigned int shared, CUstream stream,
                                     void** params, void** extra) {
  return THIS_ENTRY(cuLaunchKernel).call(Needs::context, [&](Call& call) {
    return launch(call, {f, gx, gy, gz, bx, by, bz, shared, params, extra, nullptr, nullptr}, stream, false);
  });
}

SOFTCUDA_API CUresult cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction f, void** params, void** extra) {
  return THIS_ENTRY(cuLaunchKernelEx).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, c, "config"));
    bool cooperative = false;
    SOFTCUDA_TRY(take_attributes(call, *c, &cooperative));
    return launch(call,
                  {f, c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX, c->blockDimY, c->blockDimZ,
                   c->sharedMemBytes, params, extra, nullptr, nullptr},
                  c->hStream, cooperative);
  });
}

SOFTCUDA_API CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned int gx, unsigned int gy, unsigned int gz,
                                                unsigned int bx, unsigned int by, unsigned int bz, unsigned int shared,
                                                CUstream stream, void** params) {
  return THIS_ENTRY(cuLaunchCooperativeKernel).call(Needs::context, [&](Call& call) {
    return launch(call, {f, gx, gy, gz, bx, by, bz, shared, params, nullptr, nullptr, nullptr}, stream, true);
  });
}

SOFTCUDA_API CUresult cuLaunchHostFunc(CUstream handle, CUhostFn fn, void* data) {
  return THIS_ENTRY(cuLaunchHostFunc).call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, reinterpret_cast<const void*>(fn), "fn"));
    std::shared_ptr<Stream> stream = find_stream(call, handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    return enqueue(call, stream, HostCall{fn, data});
  });
}
