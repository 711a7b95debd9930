// Device memory of one software device: allocations with red zones, freed memory
// kept unused for a while so that a use after free is told from a wild access, and
// one bit for each byte that says whether anything has written it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace softcuda {

// Who asked for an allocation: only heap memory may be freed by its address, and
// kernels may not write to constants.
enum class Use : uint8_t { heap, module, constant };

// Allocation is one range of device memory. Its record never moves or goes away
// while the Memory lives, so that the interpreter reads it without a lock.
struct Allocation {
  uint64_t base = 0;
  size_t bytes = 0;
  Use use = Use::heap;
  std::atomic<bool> live{false};
  uint64_t serial = 0;  // counts allocations from 1, for messages
};

// Memory is the memory of one device. It is thread safe. Device addresses are host
// addresses in a reserved region, so that the interpreter can dereference them after
// its check; pages cost nothing until they are touched.
class Memory {
 public:
  // Throws std::runtime_error when the address space cannot be reserved.
  explicit Memory(size_t capacity);
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // allocate gives the address of `bytes` unwritten bytes, aligned to 256, or 0 when
  // they do not fit (or bytes is 0).
  uint64_t allocate(size_t bytes, Use use = Use::heap);
  // free ends a live heap allocation; false when address is not the start of one.
  bool free(uint64_t address);
  // release is free for memory of a module.
  bool release(uint64_t address);
  // lookup finds the live allocation that holds address; either result may be null.
  bool lookup(uint64_t address, uint64_t* base, size_t* bytes) const;
  size_t used() const { return used_.load(std::memory_order_relaxed); }
  size_t capacity() const { return capacity_; }
  // live lists (address, bytes) of every live heap allocation by address.
  std::vector<std::pair<uint64_t, size_t>> live() const;

  // Host-side access. All give false and the reason in *why for a range that is not
  // inside one live allocation. Writing marks bytes as written. read copies unwritten
  // bytes too, gives true, and says in *why which were unwritten (otherwise *why is
  // left empty). copy moves bytes, overlapping or not, together with their bits.
  bool write(uint64_t dst, const void* src, size_t n, std::string* why);
  bool read(void* dst, uint64_t src, size_t n, std::string* why) const;
  bool copy(uint64_t dst, uint64_t src, size_t n, std::string* why);
  // fill writes `count` elements of `width` (1, 2 or 4) bytes.
  bool fill(uint64_t dst, const void* pattern, size_t width, size_t count, std::string* why);

  // ---- for the interpreter ----

  // find gives the record, live or freed, that owns the 256-byte granule of address,
  // or null when nothing was ever there.
  const Allocation* find(uint64_t address) const {
    uint64_t offset = address - region_;
    if (offset >= region_bytes_) return nullptr;
    uint32_t index = granules_[offset >> kGranuleShift].load(std::memory_order_acquire);
    return index ? record(index) : nullptr;
  }
  // holds says whether [address, address+n) lies inside one live allocation.
  const Allocation* holds(uint64_t address, size_t n) const {
    const Allocation* a = find(address);
    if (!a || !a->live.load(std::memory_order_relaxed)) return nullptr;
    uint64_t offset = address - a->base;
    return offset <= a->bytes && n <= a->bytes - offset ? a : nullptr;
  }
  // explain says why [address, address+n) is no good, and which kind of fault it is.
  std::string explain(uint64_t address, size_t n, std::string* kind) const;

  // The bit of a byte is bit (address & 7) of *bits(address).
  uint8_t* bits(uint64_t address) const { return bits_ + ((address - region_) >> 3); }
  void mark(uint64_t address, size_t n) const;           // as written
  bool written(uint64_t address, size_t n) const {       // all of them
    while (n) {
      // 57 to 64 bits at a time, wherever the range starts.
      uint64_t word;
      __builtin_memcpy(&word, bits(address), 8);
      unsigned skip = address & 7;
      size_t take = n < 64 - skip ? n : 64 - skip;
      uint64_t want = take == 64 ? ~uint64_t{0} : (uint64_t{1} << take) - 1;
      if ((word >> skip & want) != want) return false;
      address += take;
      n -= take;
    }
    return true;
  }
  // first_unwritten gives the first unwritten address in the range, or address+n.
  uint64_t first_unwritten(uint64_t address, size_t n) const;

 private:
  static constexpr int kGranuleShift = 8;
  static constexpr size_t kGranule = size_t{1} << kGranuleShift;
  static constexpr uint32_t kRecordsPerChunk = 4096;
  static constexpr uint32_t kMaxChunks = 16384;

  const Allocation* record(uint32_t index) const {
    return chunks_[index / kRecordsPerChunk].load(std::memory_order_acquire) + index % kRecordsPerChunk;
  }
  Allocation* new_record(uint32_t* index);
  uint64_t take_range(size_t bytes);
  bool recycle(size_t until);
  bool end(uint64_t address, bool module);
  void unmark(uint64_t address, size_t n);

  size_t capacity_;
  uint64_t region_ = 0;
  size_t region_bytes_ = 0;
  uint8_t* bits_ = nullptr;
  std::atomic<uint32_t>* granules_ = nullptr;
  std::atomic<Allocation*> chunks_[kMaxChunks] = {};

  mutable std::mutex mutex_;
  std::map<uint64_t, size_t> free_ranges_;  // address -> bytes, coalesced
  struct Freed {
    uint64_t address;
    size_t bytes;      // of the range with its red zone
    uint32_t record;
  };
  std::deque<Freed> quarantine_;
  size_t quarantined_ = 0;
  std::map<uint64_t, uint32_t> live_;  // address -> record
  std::vector<uint32_t> spare_records_;
  uint32_t records_ = 1;  // 0 means none
  uint64_t serial_ = 0;
  std::atomic<size_t> used_{0};
};

}  // namespace softcuda
