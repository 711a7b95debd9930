#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <stdexcept>

namespace softcuda {

namespace {

constexpr size_t kAlign = 256;
constexpr size_t kRedZone = 256;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

void* reserve(size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::runtime_error("cannot reserve address space for device memory; lower SOFTCUDA_MEMORY or raise ulimit -v");
  return p;
}

std::string hex(uint64_t v) {
  char text[32];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
  return text;
}

}  // namespace

Memory::Memory(size_t capacity) : capacity_(capacity) {
  // Twice the capacity, so that freed ranges can rest before they are used again.
  region_bytes_ = round_up(capacity * 2 + (size_t{64} << 20), size_t{2} << 20);
  region_ = reinterpret_cast<uint64_t>(reserve(region_bytes_));
  bits_ = static_cast<uint8_t*>(reserve(region_bytes_ / 8 + 64));
  granules_ = static_cast<std::atomic<uint32_t>*>(reserve((region_bytes_ >> kGranuleShift) * sizeof(uint32_t)));
  free_ranges_[region_ + kRedZone] = region_bytes_ - 2 * kRedZone;
}

Memory::~Memory() {
  munmap(reinterpret_cast<void*>(region_), region_bytes_);
  munmap(bits_, region_bytes_ / 8 + 64);
  munmap(granules_, (region_bytes_ >> kGranuleShift) * sizeof(uint32_t));
  for (auto& chunk : chunks_) delete[] chunk.load();
}

Allocation* Memory::new_record(uint32_t* index) {
  if (!spare_records_.empty()) {
    *index = spare_records_.back();
    spare_records_.pop_back();
  } else {
    if (records_ / kRecordsPerChunk >= kMaxChunks) return nullptr;
    *index = records_++;
  }
  auto& chunk = chunks_[*index / kRecordsPerChunk];
  if (!chunk.load()) chunk.store(new Allocation[kRecordsPerChunk], std::memory_order_release);
  return chunk.load() + *index % kRecordsPerChunk;
}

// recycle returns quarantined ranges, the oldest first, until at most `until` bytes
// rest; false when there was nothing to return.
bool Memory::recycle(size_t until) {
  bool any = false;
  while (!quarantine_.empty() && quarantined_ > until) {
    Freed freed = quarantine_.front();
    quarantine_.pop_front();
    quarantined_ -= freed.bytes;
    for (uint64_t g = (freed.address - region_) >> kGranuleShift, end = g + (freed.bytes >> kGranuleShift); g < end; g++)
      granules_[g].store(0, std::memory_order_relaxed);
    spare_records_.push_back(freed.record);
    auto next = free_ranges_.lower_bound(freed.address);
    if (next != free_ranges_.begin()) {
      auto before = std::prev(next);
      if (before->first + before->second == freed.address) {
        freed.address = before->first;
        freed.bytes += before->second;
        free_ranges_.erase(before);
      }
    }
    if (next != free_ranges_.end() && freed.address + freed.bytes == next->first) {
      freed.bytes += next->second;
      free_ranges_.erase(next);
    }
    free_ranges_[freed.address] = freed.bytes;
    any = true;
  }
  return any;
}

uint64_t Memory::take_range(size_t bytes) {
  for (auto it = free_ranges_.begin(); it != free_ranges_.end(); ++it) {
    if (it->second < bytes) continue;
    uint64_t address = it->first;
    size_t left = it->second - bytes;
    free_ranges_.erase(it);
    if (left) free_ranges_[address + bytes] = left;
    return address;
  }
  return 0;
}

uint64_t Memory::allocate(size_t bytes, Use use) {
  if (bytes == 0 || bytes > capacity_) return 0;
  size_t held = round_up(bytes, kAlign);
  size_t range = held + kRedZone;
  std::lock_guard lock(mutex_);
  if (used_.load() + held > capacity_) return 0;
  uint64_t address = take_range(range);
  for (size_t rest = quarantined_; !address && rest > 0;) {
    rest /= 2;
    if (recycle(rest)) address = take_range(range);
  }
  if (!address) return 0;
  uint32_t index;
  Allocation* a = new_record(&index);
  if (!a) {
    free_ranges_[address] = range;
    return 0;
  }
  a->base = address;
  a->bytes = bytes;
  a->use = use;
  a->serial = ++serial_;
  a->live.store(true, std::memory_order_release);
  for (uint64_t g = (address - region_) >> kGranuleShift, end = g + (held >> kGranuleShift); g < end; g++)
    granules_[g].store(index, std::memory_order_release);
  live_[address] = index;
  used_ += held;
  return address;
}

bool Memory::end(uint64_t address, bool module) {
  std::lock_guard lock(mutex_);
  auto it = live_.find(address);
  if (it == live_.end()) return false;
  uint32_t index = it->second;
  auto* a = const_cast<Allocation*>(record(index));
  if ((a->use != Use::heap) != module) return false;
  a->live.store(false, std::memory_order_release);
  live_.erase(it);
  size_t held = round_up(a->bytes, kAlign);
  used_ -= held;
  unmark(address, held);
  // Whole pages go back to the host; what is left must not be mistaken for data.
  uint64_t page = round_up(address, 4096), page_end = (address + held) / 4096 * 4096;
  if (page_end > page && page_end - page >= (size_t{1} << 16))
    madvise(reinterpret_cast<void*>(page), page_end - page, MADV_DONTNEED);
  quarantine_.push_back({address, held + kRedZone, index});
  quarantined_ += held + kRedZone;
  recycle(std::max(capacity_ / 2, size_t{16} << 20));
  return true;
}

bool Memory::free(uint64_t address) { return end(address, false); }
bool Memory::release(uint64_t address) { return end(address, true); }

bool Memory::lookup(uint64_t address, uint64_t* base, size_t* bytes) const {
  const Allocation* a = holds(address, 1);
  if (!a) return false;
  if (base) *base = a->base;
  if (bytes) *bytes = a->bytes;
  return true;
}

std::vector<std::pair<uint64_t, size_t>> Memory::live() const {
  std::lock_guard lock(mutex_);
  std::vector<std::pair<uint64_t, size_t>> all;
  for (auto& [address, index] : live_)
    if (record(index)->use == Use::heap) all.emplace_back(address, record(index)->bytes);
  return all;
}

std::string Memory::explain(uint64_t address, size_t n, std::string* kind) const {
  std::string range = std::to_string(n) + " bytes at " + hex(address);
  auto name = [](const Allocation* a) {
    return "allocation " + std::to_string(a->serial) + " of " + std::to_string(a->bytes) + " bytes at " + hex(a->base);
  };
  const Allocation* a = find(address);
  if (kind) *kind = "out-of-bounds";
  if (a && !a->live.load()) {
    if (kind) *kind = "use-after-free";
    return range + " are in freed memory: " + name(a);
  }
  if (!a && address - region_ < region_bytes_)  // perhaps just past one
    if (const Allocation* before = find(address - kRedZone); before && before->live.load()) a = before;
  if (!a) return range + " are in no allocation";
  uint64_t offset = address - a->base;
  if (offset >= a->bytes) return range + " start " + std::to_string(offset - a->bytes) + " bytes past the end of " + name(a);
  return range + " reach " + std::to_string(offset + n - a->bytes) + " bytes past the end of " + name(a);
}

void Memory::mark(uint64_t address, size_t n) const {
  uint64_t end = address + n;
  auto set = [&](uint64_t at, uint8_t mask) {
    uint8_t* b = bits(at);
    if ((__atomic_load_n(b, __ATOMIC_RELAXED) & mask) != mask) __atomic_fetch_or(b, mask, __ATOMIC_RELAXED);
  };
  uint64_t from = (address + 7) & ~uint64_t{7}, to = end & ~uint64_t{7};
  if (from > to) {  // inside one byte of bits
    set(address, static_cast<uint8_t>(((1u << n) - 1) << (address & 7)));
    return;
  }
  if (address < from) set(address, static_cast<uint8_t>(0xff << (address & 7)));
  if (from < to) memset(bits(from), 0xff, (to - from) >> 3);
  if (to < end) set(to, static_cast<uint8_t>((1u << (end & 7)) - 1));
}

void Memory::unmark(uint64_t address, size_t n) {
  // Allocations start and end on whole bytes of bits. Long runs go back to the host.
  uint8_t* from = bits(address);
  size_t length = n >> 3;
  auto page = reinterpret_cast<uint8_t*>(round_up(reinterpret_cast<uint64_t>(from), 4096));
  auto page_end = reinterpret_cast<uint8_t*>(reinterpret_cast<uint64_t>(from + length) / 4096 * 4096);
  if (page_end <= page) {
    memset(from, 0, length);
    return;
  }
  memset(from, 0, page - from);
  madvise(page, page_end - page, MADV_DONTNEED);
  memset(page_end, 0, from + length - page_end);
}

uint64_t Memory::first_unwritten(uint64_t address, size_t n) const {
  uint64_t end = address + n;
  while (address < end) {
    if ((address & 63) == 0 && address + 64 <= end) {
      uint64_t word;
      memcpy(&word, bits(address), 8);
      if (word == ~uint64_t{0}) {
        address += 64;
        continue;
      }
    }
    if (!(*bits(address) >> (address & 7) & 1)) return address;
    address++;
  }
  return end;
}

bool Memory::write(uint64_t dst, const void* src, size_t n, std::string* why) {
  if (n == 0) return true;
  if (!holds(dst, n)) {
    if (why) *why = "write: " + explain(dst, n, nullptr);
    return false;
  }
  memcpy(reinterpret_cast<void*>(dst), src, n);
  mark(dst, n);
  return true;
}

bool Memory::read(void* dst, uint64_t src, size_t n, std::string* why) const {
  if (n == 0) return true;
  const Allocation* a = holds(src, n);
  if (!a) {
    if (why) *why = "read: " + explain(src, n, nullptr);
    return false;
  }
  memcpy(dst, reinterpret_cast<const void*>(src), n);
  uint64_t first = first_unwritten(src, n);
  if (first != src + n && why)
    *why = "read of bytes that nothing wrote: first at " + hex(first) + ", byte " + std::to_string(first - a->base) + " of allocation " +
           std::to_string(a->serial) + " of " + std::to_string(a->bytes) + " bytes";
  return true;
}

bool Memory::copy(uint64_t dst, uint64_t src, size_t n, std::string* why) {
  if (n == 0) return true;
  if (!holds(src, n) || !holds(dst, n)) {
    if (why) *why = holds(src, n) ? "copy to: " + explain(dst, n, nullptr) : "copy from: " + explain(src, n, nullptr);
    return false;
  }
  std::lock_guard lock(mutex_);  // two copies into neighbours share bytes of bits
  std::vector<bool> was;
  bool whole = written(src, n);
  if (!whole) {
    was.resize(n);
    for (size_t i = 0; i < n; i++) was[i] = *bits(src + i) >> ((src + i) & 7) & 1;
  }
  memmove(reinterpret_cast<void*>(dst), reinterpret_cast<const void*>(src), n);
  if (whole) {
    mark(dst, n);
    return true;
  }
  for (size_t i = 0; i < n; i++) {
    uint8_t bit = static_cast<uint8_t>(1u << ((dst + i) & 7));
    if (was[i])
      __atomic_fetch_or(bits(dst + i), bit, __ATOMIC_RELAXED);
    else
      __atomic_fetch_and(bits(dst + i), static_cast<uint8_t>(~bit), __ATOMIC_RELAXED);
  }
  return true;
}

bool Memory::fill(uint64_t dst, const void* pattern, size_t width, size_t count, std::string* why) {
  size_t n = width * count;
  if (n == 0) return true;
  if (count > region_bytes_ || !holds(dst, n)) {
    if (why) *why = "fill: " + explain(dst, n, nullptr);
    return false;
  }
  auto* to = reinterpret_cast<uint8_t*>(dst);
  if (width == 1)
    memset(to, *static_cast<const uint8_t*>(pattern), n);
  else
    for (size_t i = 0; i < count; i++) memcpy(to + i * width, pattern, width);
  mark(dst, n);
  return true;
}

}  // namespace softcuda
