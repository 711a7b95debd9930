// Running a grid: blocks over host threads, a block's warps in turn on one of them.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <string_view>
#include <thread>

#include "code.h"
#include "hopper.h"

namespace softcuda {

void Counters::add(const Counters& o) {
  launches += o.launches;
  instructions += o.instructions;
  global_load_sectors += o.global_load_sectors;
  global_store_sectors += o.global_store_sectors;
  global_load_bytes += o.global_load_bytes;
  global_store_bytes += o.global_store_bytes;
  shared_accesses += o.shared_accesses;
  bank_conflicts += o.bank_conflicts;
  uncoalesced += o.uncoalesced;
  barriers += o.barriers;
  atomics += o.atomics;
}

std::string describe(const Fault& f) {
  std::string s = f.kind;
  if (!f.kernel.empty()) s += " in kernel " + f.kernel;
  if (f.line) s += ", PTX line " + std::to_string(f.line);
  if (!f.kernel.empty())
    s += ", block (" + std::to_string(f.block[0]) + "," + std::to_string(f.block[1]) + "," + std::to_string(f.block[2]) + "), thread (" +
         std::to_string(f.thread[0]) + "," + std::to_string(f.thread[1]) + "," + std::to_string(f.thread[2]) + ")";
  return s + ": " + f.text;
}

int fault(Warp& w, const Inst& i, int lane, uint64_t address, const char* kind, int error, std::string text) {
  Fault& f = *w.block->fault;
  if (lane < 0) lane = w.mask ? __builtin_ctz(w.mask) : w.active ? __builtin_ctz(w.active) : 0;
  unsigned thread = static_cast<unsigned>(w.id * 32 + lane);
  Dim3 d = w.block->dim;
  f.kind = kind;
  f.kernel = w.block->code->info.name;
  f.text = std::move(text);
  f.line = i.line;
  for (int k = 0; k < 3; k++) f.block[k] = w.block->index[k];
  f.thread[0] = thread % d.x;
  f.thread[1] = thread / d.x % d.y;
  f.thread[2] = thread / d.x / d.y;
  f.address = address;
  f.error = error;
  return kFaulted;
}

namespace {

constexpr uint64_t kMaxSteps = uint64_t{1} << 33;
std::atomic<uint64_t> max_steps{kMaxSteps};

size_t line(size_t n) { return (n + 63) / 64 * 64; }

// Arena is the memory of one block's run, kept between blocks and launches.
class Arena {
 public:
  ~Arena() { std::free(base_); }
  uint8_t* at_least(size_t bytes) {
    if (bytes > size_) {
      std::free(base_);
      size_ = line(bytes + bytes / 4);
      base_ = static_cast<uint8_t*>(std::aligned_alloc(64, size_));
      if (!base_) throw std::bad_alloc();
    }
    return base_;
  }

 private:
  uint8_t* base_ = nullptr;
  size_t size_ = 0;
};

struct Launch {
  const Code* code;
  Memory* memory;
  Dim3 grid, dim;
  uint32_t dynamic_shared;
  const uint8_t* params;
};

uint32_t special_value(const Block& b, Special s, unsigned thread) {
  unsigned lane = thread & 31;
  switch (s) {
    case Special::tid_x: return thread % b.dim.x;
    case Special::tid_y: return thread / b.dim.x % b.dim.y;
    case Special::tid_z: return thread / b.dim.x / b.dim.y;
    case Special::ntid_x: return b.dim.x;
    case Special::ntid_y: return b.dim.y;
    case Special::ntid_z: return b.dim.z;
    case Special::ctaid_x: return b.index[0];
    case Special::ctaid_y: return b.index[1];
    case Special::ctaid_z: return b.index[2];
    case Special::nctaid_x: return b.grid.x;
    case Special::nctaid_y: return b.grid.y;
    case Special::nctaid_z: return b.grid.z;
    case Special::laneid: return lane;
    case Special::warpid: return thread >> 5;
    case Special::nwarpid: return (b.threads + 31) >> 5;
    case Special::smid: return 0;
    case Special::nsmid: return 1;
    case Special::gridid: return 0;
    case Special::lanemask_eq: return 1u << lane;
    case Special::lanemask_lt: return (1u << lane) - 1;
    case Special::lanemask_le: return (2u << lane) - 1;
    case Special::lanemask_gt: return ~((2u << lane) - 1);
    case Special::lanemask_ge: return ~((1u << lane) - 1);
    case Special::dynamic_smem_size: return b.dynamic_shared;
    case Special::total_smem_size: return b.shared_bytes;
    case Special::zero: return 0;
  }
  return 0;
}

bool thread_dependent(Special s) {
  return s == Special::tid_x || s == Special::tid_y || s == Special::tid_z || s == Special::warpid;
}

// Runner runs blocks one after another on one host thread.
class Runner {
 public:
  bool run(const Launch&, uint64_t index, Fault*, Counters*);

 private:
  void prepare(const Launch&, uint64_t index);
  void prepare_warp(Warp&, int id);
  bool stuck();
  int run_warp(Warp&);

  Arena registers_, shared_, local_;
  Block block_;
};

void Runner::prepare(const Launch& launch, uint64_t index) {
  Block& b = block_;
  const Code& code = *launch.code;
  b.code = &code;
  b.memory = launch.memory;
  b.params = launch.params;
  b.grid = launch.grid;
  b.dim = launch.dim;
  b.index[0] = static_cast<unsigned>(index % launch.grid.x);
  b.index[1] = static_cast<unsigned>(index / launch.grid.x % launch.grid.y);
  b.index[2] = static_cast<unsigned>(index / launch.grid.x / launch.grid.y);
  b.threads = static_cast<unsigned>(launch.dim.count());
  b.warp_count = static_cast<int>((b.threads + 31) / 32);
  b.dynamic_shared = launch.dynamic_shared;
  b.shared_bytes = static_cast<uint32_t>(code.info.static_shared) + launch.dynamic_shared;
  b.shared = shared_.at_least(b.shared_bytes + 64);
  memset(b.shared, 0xcd, b.shared_bytes);
  size_t granules = (b.shared_bytes >> code.granule_shift) + 64;
  b.writer.assign(granules, 0);
  b.reader.assign(granules, 0);
  b.atomic.assign(code.shared_atomics ? granules : 0, 0);
  b.tick = 1;
  for (int w = 0; w < b.warp_count; w++) {
    std::fill(b.seen[w], b.seen[w] + kClocks, 1);
    std::fill(b.fenced[w], b.fenced[w] + 32, 0);
  }
  b.memory_barriers.clear();
  b.bulk_copies.clear();
  std::fill(std::begin(b.barriers), std::end(b.barriers), Barrier{});
  b.local_bytes = static_cast<uint32_t>((code.info.local_bytes + 15) / 16 * 16);
  size_t local = size_t{b.local_bytes} * static_cast<size_t>(b.warp_count) * 32;
  b.local = local_.at_least(local + 64);
  memset(b.local, 0xcd, local);
  b.counters = {};
  b.steps_left = max_steps.load(std::memory_order_relaxed);
  size_t bytes = code.register_bytes + line(code.predicates * 4);
  uint8_t* registers = registers_.at_least(bytes * static_cast<size_t>(b.warp_count));
  memset(registers, 0, bytes * static_cast<size_t>(b.warp_count));
  b.warps.resize(static_cast<size_t>(std::max<int>(b.warp_count, static_cast<int>(b.warps.size()))));
  for (int w = 0; w < b.warp_count; w++) {
    Warp& warp = b.warps[static_cast<size_t>(w)];
    warp.regs = registers + bytes * static_cast<size_t>(w);
    warp.preds = reinterpret_cast<uint32_t*>(warp.regs + code.register_bytes);
    prepare_warp(warp, w);
  }
}

void Runner::prepare_warp(Warp& w, int id) {
  Block& b = block_;
  unsigned first = static_cast<unsigned>(id) * 32, count = std::min(32u, b.threads - first);
  w.id = id;
  w.block = &b;
  w.code = b.code->insts.data();
  w.bank[0] = w.regs;
  w.bank[1] = reinterpret_cast<const uint8_t*>(b.code->constants.data());
  w.born = w.live = w.active = count == 32 ? ~0u : (1u << count) - 1;
  w.mask = 0;
  w.pc = 0;
  w.carry = 0;
  w.budget = kTurn;
  w.count = 0;
  w.floor = 1;
  w.stack.clear();
  w.stack.push_back({kNever, 0, w.live});
  w.spare_copies.insert(w.spare_copies.end(), w.copies.begin(), w.copies.end());
  w.copies.clear();
  memset(w.copy_group, 0, sizeof w.copy_group);
  w.reads.clear();
  w.read_group = 0;
  w.state = Warp::ready;
  w.barrier = -1;
  w.preds[0] = ~0u;
  w.preds[1] = 0;
  for (auto& use : b.code->specials) {
    auto value = [&](int l) { return special_value(b, use.special, first + static_cast<unsigned>(l)); };
    bool varies = thread_dependent(use.special) || (use.special >= Special::lanemask_eq && use.special <= Special::lanemask_gt) || use.special == Special::laneid;
    uint32_t same = varies ? 0 : value(0);
    for (int l = 0; l < 32; l++) {
      uint32_t v = varies ? value(l) : same;
      if (use.wide) dst<uint64_t>(w, use.slot)[l] = v;
      else dst<uint32_t>(w, use.slot)[l] = v;
    }
  }
}

int Runner::run_warp(Warp& w) {
  const Inst* code = w.code;
  for (;;) {
    const Inst& i = code[w.pc++];
    w.mask = w.active & (w.preds[i.guard] ^ i.flip);
    w.count++;
    if (!w.mask) continue;
    int status = i.fn(w, i);
    if (__builtin_expect(status != kNext, 0)) return status;
  }
}

// stuck fills in the fault of a block whose warps all wait.
bool Runner::stuck() {
  for (int k = 0; k < block_.warp_count; k++) {
    Warp& w = block_.warps[static_cast<size_t>(k)];
    if (w.state != Warp::waiting) continue;
    const Barrier& bar = block_.barriers[w.barrier];
    fault(w, w.code[w.pc - 1], __builtin_ctz(w.active), 0, "barrier", kErrorLaunchFailed,
          "barrier " + std::to_string(w.barrier) + " waits for " + std::to_string(bar.expected) + " threads, " + std::to_string(bar.arrived) +
              " came, and the others have exited or wait elsewhere");
    return true;
  }
  return false;
}

bool Runner::run(const Launch& launch, uint64_t index, Fault* f, Counters* counters) {
  prepare(launch, index);
  block_.fault = f;
  bool ok = true;
  for (int left = block_.warp_count; left > 0 && ok;) {
    bool moved = false;
    for (int k = 0; k < block_.warp_count && ok; k++) {
      Warp& w = block_.warps[static_cast<size_t>(k)];
      if (w.state != Warp::ready) continue;
      moved = true;
      switch (run_warp(w)) {
        case kDone:
          w.state = Warp::done;
          left--;
          break;
        case kFaulted: ok = false; break;
        default: break;  // waiting, or its turn is over
      }
    }
    if (ok && left > 0 && !moved) {
      stuck();
      ok = false;
    }
  }
  if (ok && launch.code->async_proxy) ok = async_end(block_) == kNext;
  for (int k = 0; k < block_.warp_count; k++) block_.counters.instructions += block_.warps[static_cast<size_t>(k)].count;
  counters->add(block_.counters);
  return ok;
}

// Crew is the host threads that run blocks beside the caller. It lives as long as the
// process: threads cost more to start than a small grid takes.
class Crew {
 public:
  static Crew& get() {
    static Crew* crew = new Crew;  // never destroyed: its threads never end
    return *crew;
  }
  // run calls work() on the caller and on up to `helpers` threads, and waits for all.
  void run(unsigned helpers, const std::function<void()>& work) {
    std::unique_lock turn(turn_);  // one grid at a time has the helpers
    {
      std::lock_guard lock(mutex_);
      while (threads_ < helpers) {
        std::thread([this] { serve(); }).detach();
        threads_++;
      }
      work_ = &work;
      wanted_ = helpers;
      running_ = helpers;
    }
    wake_.notify_all();
    work();
    std::unique_lock lock(mutex_);
    // A small grid is done before its helpers wake: those need not start.
    running_ -= wanted_;
    wanted_ = 0;
    done_.wait(lock, [this] { return running_ == 0; });
    work_ = nullptr;
  }

 private:
  void serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return wanted_ > 0; });
      wanted_--;
      auto* work = work_;
      lock.unlock();
      (*work)();
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex turn_, mutex_;
  std::condition_variable wake_, done_;
  const std::function<void()>* work_ = nullptr;
  unsigned threads_ = 0, wanted_ = 0, running_ = 0;
};

bool check(const KernelInfo& info, Dim3 grid, Dim3 block, size_t dynamic_shared, Fault* f) {
  auto no = [&](std::string text) {
    f->kind = "launch";
    f->kernel = info.name;
    f->text = std::move(text);
    f->error = kErrorInvalidValue;
    return false;
  };
  if (!grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z) return no("grid and block must have at least one of each");
  if (block.count() > 1024) return no("a block has at most 1024 threads");
  if (block.count() > info.max_threads) return no("the kernel is compiled for at most " + std::to_string(info.max_threads) + " threads a block");
  auto* need = info.required_block;
  if (need[0] && (need[0] != block.x || need[1] != block.y || need[2] != block.z)) return no("the kernel requires another block");
  if (info.static_shared + dynamic_shared > (1 << 20)) return no("too much shared memory");
  return true;
}

}  // namespace

// line_of gives a line of the PTX without its indentation.
static std::string_view line_of(std::string_view text, int line) {
  if (line < 1) return {};
  size_t from = 0;
  while (--line > 0) {
    from = text.find('\n', from);
    if (from == std::string_view::npos) return {};
    from++;
  }
  std::string_view found = text.substr(from, text.find('\n', from) - from).substr(0, 200);
  found.remove_prefix(std::min(found.find_first_not_of(" \t"), found.size()));
  return found;
}

void step_limit(uint64_t steps) { max_steps.store(steps ? steps : kMaxSteps); }

bool run(const Program& program, const KernelInfo& info, Dim3 grid, Dim3 block, size_t dynamic_shared, const void* params, Memory& memory,
         unsigned threads, Counters* counters, Fault* out) {
  Fault ignored;
  if (!out) out = &ignored;
  *out = Fault{};
  if (!check(info, grid, block, dynamic_shared, out)) return false;
  auto it = program.module().kernels.find(info.name);
  if (it == program.module().kernels.end()) {
    out->kind = "launch";
    out->text = "the module has no kernel " + info.name;
    out->error = kErrorInvalidValue;
    return false;
  }
  Launch launch{it->second.get(), &memory, grid, block, static_cast<uint32_t>(dynamic_shared), static_cast<const uint8_t*>(params)};
  uint64_t blocks = grid.count();
  std::atomic<uint64_t> next{0}, faulted{UINT64_MAX};
  std::mutex mutex;
  Counters total;
  Fault first;
  auto work = [&] {
    static thread_local Runner runner;
    Counters mine;
    for (;;) {
      uint64_t index = next.fetch_add(1);
      // Blocks before a faulty one all run, so the fault told does not depend on threads.
      if (index >= blocks || index > faulted.load()) break;
      Fault f;
      try {
        if (runner.run(launch, index, &f, &mine)) continue;
      } catch (const std::bad_alloc&) {
        f = Fault{};
        f.kind = "launch";
        f.kernel = info.name;
        f.text = "the host has no memory to run a block";
        f.error = kErrorLaunchOutOfResources;
      }
      std::lock_guard lock(mutex);
      if (index < faulted.load()) {
        faulted.store(index);
        first = std::move(f);
      }
    }
    std::lock_guard lock(mutex);
    total.add(mine);
  };
  unsigned crew = static_cast<unsigned>(std::min<uint64_t>(std::max(1u, threads), blocks));
  if (crew > 1) Crew::get().run(crew - 1, work);
  else work();
  total.launches = 1;
  if (counters) counters->add(total);
  if (faulted.load() == UINT64_MAX) return true;
  *out = std::move(first);
  std::string_view line = line_of(program.module().ast->text, out->line);
  if (!line.empty()) out->text += " [" + std::string(line) + "]";
  return false;
}

}  // namespace softcuda
