// Modules from PTX text, their functions and variables, and attributes of functions.
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "../report.h"
#include "attributes.h"
#include "capture.h"
#include "occupancy.h"

using namespace softcuda;

namespace {

// Log is what a caller of cuModuleLoadDataEx wants to know of the compilation.
struct Log {
  char* errors = nullptr;
  size_t errors_room = 0;
  void** errors_used = nullptr;  // where the number of bytes written goes
  char* infos = nullptr;
  size_t infos_room = 0;
  void** infos_used = nullptr;

  static void put(const std::string& text, char* buffer, size_t room, void** used) {
    size_t n = 0;
    if (buffer && room) {
      n = std::min(text.size(), room - 1);
      std::memcpy(buffer, text.data(), n);
      buffer[n] = 0;
    }
    if (used) *used = reinterpret_cast<void*>(n);
  }
  void error(const std::string& text) const { put(text, errors, errors_room, errors_used); }
  void info(const std::string& text) const { put(text, infos, infos_room, infos_used); }
};

CUresult take_options(Call& call, unsigned count, const CUjit_option* options, void** values, Log* log) {
  if (count && (!options || !values)) return call.fail(CUDA_ERROR_INVALID_VALUE, "options or optionValues is null");
  for (unsigned i = 0; i < count; i++) {
    switch (options[i]) {
      case CU_JIT_INFO_LOG_BUFFER: log->infos = static_cast<char*>(values[i]); break;
      case CU_JIT_ERROR_LOG_BUFFER: log->errors = static_cast<char*>(values[i]); break;
      case CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES:
        log->infos_room = reinterpret_cast<uintptr_t>(values[i]) & 0xffffffffu;
        log->infos_used = &values[i];
        break;
      case CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES:
        log->errors_room = reinterpret_cast<uintptr_t>(values[i]) & 0xffffffffu;
        log->errors_used = &values[i];
        break;
      default:  // the rest steers a compiler that is not there
        if (options[i] < CU_JIT_MAX_REGISTERS || options[i] >= CU_JIT_NUM_OPTIONS) {
          return call.fail(CUDA_ERROR_INVALID_VALUE, "there is no JIT option " + std::to_string(int(options[i])));
        }
    }
  }
  return CUDA_SUCCESS;
}

// Whether text can have the byte; comments may be UTF-8.
bool is_text(unsigned char c) { return c >= 0x20 || std::isspace(c); }

// Copies up to n bytes at `from`, as many as can be read. Where the kernel does not let a
// process look at itself this way, it trusts that all can.
size_t read_if_there(const char* from, char* to, size_t n) {
  iovec here = {to, n}, there = {const_cast<char*>(from), n};
  ssize_t got = process_vm_readv(getpid(), &here, 1, &there, 1, 0);
  if (got < 0 && errno != EFAULT) {
    got = ssize_t(strnlen(from, n - 1) + 1);
    std::memcpy(to, from, size_t(got));
  }
  return got < 0 ? 0 : size_t(got);
}

// The text that starts at image. It ends at a NUL; where that is missing, at the first
// byte that text does not have, or where memory ends. Such an image is told as a fault: a
// device's driver would read on.
std::string text_at(const char* image, const char* entry) {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  std::vector<char> buffer(page);
  std::string text;
  for (bool more = true; more;) {
    const char* at = image + text.size();
    size_t n = page - reinterpret_cast<uintptr_t>(at) % page;
    size_t got = read_if_there(at, buffer.data(), n), used = 0;
    while (used < got && is_text(static_cast<unsigned char>(buffer[used]))) used++;
    text.append(buffer.data(), used);
    if (used < got && buffer[used] == 0) return text;
    more = used == n;
  }
  report(kind::api, 0, std::string(entry) + ": the PTX text does not end with a NUL, which a device's driver needs");
  return text;
}

bool starts_with(const char* image, const unsigned char (&magic)[4]) {
  return std::equal(magic, magic + 4, reinterpret_cast<const unsigned char*>(image));
}

// The number after a directive such as ".target sm_80" or ".version 8.4", as 80 and 84;
// 0 when the text has none.
int directive(const std::string& ptx, const std::string& name, const std::string& prefix) {
  std::istringstream lines(ptx);
  for (std::string line; std::getline(lines, line);) {
    size_t at = line.find_first_not_of(" \t");
    if (at == std::string::npos || line.compare(at, name.size(), name) != 0) continue;
    at = line.find_first_not_of(" \t", at + name.size());
    if (at == std::string::npos || line.compare(at, prefix.size(), prefix) != 0) return 0;
    int number = 0;
    for (at += prefix.size(); at < line.size() && (std::isdigit(line[at]) || line[at] == '.') && number < 10000; at++) {
      if (line[at] != '.') number = number * 10 + (line[at] - '0');
    }
    return number;
  }
  return 0;
}

// The PTX version that a driver of a CUDA version has, as 84 for 8.4 of CUDA 12.4.
int newest_ptx(int driver_version) {
  int major = driver_version / 1000, minor = driver_version % 1000 / 10;
  int ptx = (major == 11 ? 70 : major == 12 ? 80 : 90) + minor;
  return std::min(ptx, kPtxVersion);
}

CUresult error_of(const std::string& ptx, const std::string& error) {
  if (directive(ptx, ".version", "") > newest_ptx(config().driver_version)) return CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
  if (directive(ptx, ".target", "sm_") > config().sm()) return CUDA_ERROR_NO_BINARY_FOR_GPU;
  if (error.find("no memory") != std::string::npos) return CUDA_ERROR_OUT_OF_MEMORY;
  return CUDA_ERROR_INVALID_PTX;
}

CUresult load_text(Call& call, CUmodule* out, const std::string& ptx, const Log& log) {
  auto refuse = [&](CUresult error, const std::string& why) {
    log.error(why);
    return call.fail(error, why);
  };
  int version = directive(ptx, ".version", ""), newest = newest_ptx(config().driver_version);
  if (version > newest) {
    return refuse(CUDA_ERROR_UNSUPPORTED_PTX_VERSION,
                  ".version " + std::to_string(version / 10) + "." + std::to_string(version % 10) +
                      " is newer than this driver's, " + std::to_string(newest / 10) + "." + std::to_string(newest % 10));
  }
  std::shared_ptr<Context> context = call.context;
  call.lock.unlock();  // parsing takes a while
  std::string error;
  std::unique_ptr<Program> program = Program::parse(ptx, config().sm(), *context->device->memory, &error);
  call.lock.lock();
  if (!program) return refuse(error_of(ptx, error), error);
  if (context->destroyed) return call.fail(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context ended while the module loaded");
  auto module = std::make_shared<LoadedModule>();
  module->program = std::move(program);
  module->context = context;
  driver().handles.add(module);
  context->handles.insert(module->handle);
  log.info(std::to_string(module->program->kernels().size()) + " kernels");
  log.error("");
  *out = static_cast<CUmodule>(module->handle);
  return CUDA_SUCCESS;
}

CUresult load_image(Call& call, CUmodule* out, const void* image, const Log& log) {
  SOFTCUDA_TRY(need(call, out, "module"));
  SOFTCUDA_TRY(need(call, image, "image"));
  SOFTCUDA_TRY(refuse_unsafe(call));
  const char* bytes = static_cast<const char*>(image);
  auto refuse = [&](CUresult error, const std::string& why) {
    log.error(why);
    return call.fail(error, why);
  };
  if (starts_with(bytes, {0x7f, 'E', 'L', 'F'})) {
    return refuse(CUDA_ERROR_NO_BINARY_FOR_GPU,
                  "the image is a cubin; the software device executes PTX only, so load the PTX text");
  }
  if (starts_with(bytes, {0x50, 0xed, 0x55, 0xba})) {
    return refuse(CUDA_ERROR_NO_BINARY_FOR_GPU,
                  "the image is a fatbin; the software device executes PTX text only, so load that");
  }
  std::string ptx = text_at(bytes, call.entry);
  if (ptx.empty()) return refuse(CUDA_ERROR_INVALID_IMAGE, "the image is empty or no text");
  return load_text(call, out, ptx, log);
}

CUresult load_file(Call& call, CUmodule* out, const char* path) {
  SOFTCUDA_TRY(need(call, out, "module"));
  SOFTCUDA_TRY(need(call, path, "fname"));
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) {
    return call.fail(CUDA_ERROR_FILE_NOT_FOUND, std::string(path) + " cannot be read, or is empty");
  }
  std::string image = text.str();
  return load_image(call, out, image.c_str(), {});
}

// An entry about a module's function or variable of a name.
CUresult named(Entry& entry, CUmodule handle, const char* name,
               const std::function<CUresult(Call&, LoadedModule&)>& body) {
  return entry.call(Needs::context, [&](Call& call) {
    SOFTCUDA_TRY(need(call, name, "name"));
    std::shared_ptr<LoadedModule> module = find<LoadedModule>(call, handle);
    return module ? body(call, *module) : CUDA_ERROR_INVALID_HANDLE;
  });
}

std::shared_ptr<Function> function_of(LoadedModule& module, const KernelInfo& info) {
  std::shared_ptr<Function>& function = module.functions[info.name];
  if (!function) {
    function = std::make_shared<Function>();
    function->program = module.program;
    function->info = &info;
    function->module = module.handle;
    function->context = module.context;
    driver().handles.add(function);
  }
  return function;
}

std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (size_t i = 0; i < names.size() && i < 8; i++) text += (i ? ", " : "") + names[i];
  return names.size() > 8 ? text + ", …" : text;
}

CUresult function_call(Entry& entry, CUfunction handle, const std::function<CUresult(Call&, Function&)>& body) {
  return entry.call(Needs::context, [&](Call& call) {
    std::shared_ptr<Function> function = find<Function>(call, handle);
    return function ? body(call, *function) : CUDA_ERROR_INVALID_HANDLE;
  });
}

CUresult get_attribute(Call& call, const Function& f, CUfunction_attribute which, int* out) {
  const KernelInfo& info = *f.info;
  auto is = [&](size_t value) {
    *out = int(value);
    return CUDA_SUCCESS;
  };
  switch (which) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: return is(info.max_threads);
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: return is(info.static_shared);
    case CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES: return is(info.const_bytes);
    case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: return is(info.local_bytes);
    case CU_FUNC_ATTRIBUTE_NUM_REGS: return is(size_t(registers(info)));
    case CU_FUNC_ATTRIBUTE_PTX_VERSION: return is(size_t(info.required_sm));  // the virtual architecture
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION: return is(size_t(config().sm()));
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: {
      size_t usual = size_t(limits(config()).shared_default);
      return is(f.dynamic_shared_limit ? size_t(f.dynamic_shared_limit)
                                       : usual > info.static_shared ? usual - info.static_shared : 0);
    }
    case CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT:
      *out = f.carveout;
      return CUDA_SUCCESS;
    default: break;
  }
  if (which > 0 && which < CU_FUNC_ATTRIBUTE_MAX) return is(0);
  return call.fail(CUDA_ERROR_INVALID_VALUE, "there is no function attribute " + std::to_string(int(which)));
}

CUresult set_attribute(Call& call, Function& f, CUfunction_attribute which, int value) {
  if (which == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    int most = limits(config()).shared_optin - int(f.info->static_shared);
    if (value < 0 || value > most) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "kernel " + f.info->name + ": " + std::to_string(value) +
                                                     " bytes of dynamic shared memory; the device has at most " +
                                                     std::to_string(most) + " beside the static ones");
    }
    f.dynamic_shared_limit = value;
    return CUDA_SUCCESS;
  }
  if (which == CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT) {
    if (value < -1 || value > 100) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "the carveout is -1 or a percentage, not " + std::to_string(value));
    }
    f.carveout = value;
    return CUDA_SUCCESS;
  }
  return call.fail(CUDA_ERROR_INVALID_VALUE, "function attribute " + std::to_string(int(which)) + " cannot be set");
}

}  // namespace

SOFTCUDA_API CUresult cuModuleLoad(CUmodule* module, const char* path) {
  return THIS_ENTRY(cuModuleLoad).call(Needs::context, [&](Call& call) { return load_file(call, module, path); });
}

SOFTCUDA_API CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  return THIS_ENTRY(cuModuleLoadData).call(Needs::context, [&](Call& call) {
    return load_image(call, module, image, {});
  });
}

SOFTCUDA_API CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned int count,
                                         CUjit_option* options, void** values) {
  return THIS_ENTRY(cuModuleLoadDataEx).call(Needs::context, [&](Call& call) {
    Log log;
    SOFTCUDA_TRY(take_options(call, count, options, values, &log));
    return load_image(call, module, image, log);
  });
}

SOFTCUDA_API CUresult cuModuleLoadFatBinary(CUmodule*, const void*) {
  return THIS_ENTRY(cuModuleLoadFatBinary).call(Needs::context, [](Call& call) {
    return call.fail(CUDA_ERROR_NO_BINARY_FOR_GPU, "the software device executes PTX text only; load that");
  });
}

SOFTCUDA_API CUresult cuModuleUnload(CUmodule handle) {
  return THIS_ENTRY(cuModuleUnload).releasing(Needs::context, [&](Call& call) {
    std::shared_ptr<LoadedModule> module = find<LoadedModule>(call, handle);
    if (!module) return CUDA_ERROR_INVALID_HANDLE;
    SOFTCUDA_TRY(refuse_unsafe(call));
    for (auto& [name, function] : module->functions) {
      function->unloaded = true;
      driver().handles.remove(function->handle);
    }
    if (std::shared_ptr<Context> owner = module->context.lock()) owner->handles.erase(module->handle);
    driver().handles.remove(handle);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuModuleGetFunction(CUfunction* out, CUmodule handle, const char* name) {
  return named(THIS_ENTRY(cuModuleGetFunction), handle, name, [&](Call& call, LoadedModule& module) {
    SOFTCUDA_TRY(need(call, out, "hfunc"));
    const KernelInfo* info = module.program->kernel(name);
    if (!info) {
      return call.fail(CUDA_ERROR_NOT_FOUND,
                       std::string("the module has no kernel ") + name + "; it has " + list(module.program->kernels()));
    }
    *out = static_cast<CUfunction>(function_of(module, *info)->handle);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuModuleGetFunctionCount(unsigned int* count, CUmodule handle) {
  return named(THIS_ENTRY(cuModuleGetFunctionCount), handle, "", [&](Call& call, LoadedModule& module) {
    SOFTCUDA_TRY(need(call, count, "count"));
    *count = unsigned(module.program->kernels().size());
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuModuleEnumerateFunctions(CUfunction* out, unsigned int count, CUmodule handle) {
  return named(THIS_ENTRY(cuModuleEnumerateFunctions), handle, "", [&](Call& call, LoadedModule& module) {
    SOFTCUDA_TRY(need(call, out, "functions"));
    std::vector<std::string> names = module.program->kernels();
    for (unsigned i = 0; i < count && i < names.size(); i++) {
      out[i] = static_cast<CUfunction>(function_of(module, *module.program->kernel(names[i]))->handle);
    }
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuModuleGetGlobal_v2(CUdeviceptr* address, size_t* bytes, CUmodule handle, const char* name) {
  return named(THIS_ENTRY(cuModuleGetGlobal_v2), handle, name, [&](Call& call, LoadedModule& module) {
    uint64_t at = 0;
    size_t size = 0;
    if (!module.program->global(name, &at, &size)) {
      return call.fail(CUDA_ERROR_NOT_FOUND, std::string("the module has no variable ") + name);
    }
    if (address) *address = at;
    if (bytes) *bytes = size;
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuFuncGetAttribute(int* value, CUfunction_attribute which, CUfunction f) {
  return function_call(THIS_ENTRY(cuFuncGetAttribute), f, [&](Call& call, Function& function) {
    SOFTCUDA_TRY(need(call, value, "pi"));
    return get_attribute(call, function, which, value);
  });
}

SOFTCUDA_API CUresult cuFuncSetAttribute(CUfunction f, CUfunction_attribute which, int value) {
  return function_call(THIS_ENTRY(cuFuncSetAttribute), f,
                       [&](Call& call, Function& function) { return set_attribute(call, function, which, value); });
}

// These two only steer speed: the values are checked and have no effect.
SOFTCUDA_API CUresult cuFuncSetCacheConfig(CUfunction f, CUfunc_cache value) {
  return function_call(THIS_ENTRY(cuFuncSetCacheConfig), f, [&](Call& call, Function&) {
    if (value >= CU_FUNC_CACHE_PREFER_NONE && value <= CU_FUNC_CACHE_PREFER_EQUAL) return CUDA_SUCCESS;
    return call.fail(CUDA_ERROR_INVALID_VALUE, "there is no cache preference " + std::to_string(int(value)));
  });
}

SOFTCUDA_API CUresult cuFuncSetSharedMemConfig(CUfunction f, CUsharedconfig value) {
  return function_call(THIS_ENTRY(cuFuncSetSharedMemConfig), f, [&](Call& call, Function&) {
    if (value >= CU_SHARED_MEM_CONFIG_DEFAULT_BANK_SIZE && value <= CU_SHARED_MEM_CONFIG_EIGHT_BYTE_BANK_SIZE) {
      return CUDA_SUCCESS;
    }
    return call.fail(CUDA_ERROR_INVALID_VALUE, "there is no bank size " + std::to_string(int(value)));
  });
}

SOFTCUDA_API CUresult cuFuncGetModule(CUmodule* module, CUfunction f) {
  return function_call(THIS_ENTRY(cuFuncGetModule), f, [&](Call& call, Function& function) {
    SOFTCUDA_TRY(need(call, module, "hmod"));
    *module = static_cast<CUmodule>(function.module);
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuFuncGetName(const char** name, CUfunction f) {
  return function_call(THIS_ENTRY(cuFuncGetName), f, [&](Call& call, Function& function) {
    SOFTCUDA_TRY(need(call, name, "name"));
    *name = function.info->name.c_str();
    return CUDA_SUCCESS;
  });
}

SOFTCUDA_API CUresult cuFuncGetParamInfo(CUfunction f, size_t index, size_t* offset, size_t* size) {
  return function_call(THIS_ENTRY(cuFuncGetParamInfo), f, [&](Call& call, Function& function) {
    SOFTCUDA_TRY(need(call, offset, "paramOffset"));
    const KernelInfo& info = *function.info;
    if (index >= info.param_offsets.size()) {
      return call.fail(CUDA_ERROR_INVALID_VALUE, "kernel " + info.name + " has " +
                                                     std::to_string(info.param_offsets.size()) + " parameters");
    }
    *offset = info.param_offsets[index];
    if (size) *size = info.param_sizes[index];
    return CUDA_SUCCESS;
  });
}
