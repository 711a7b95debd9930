// What every entry of the driver does before and after its own work: it is counted, may
// be told to fail, is refused before cuInit and without a usable context, takes the
// driver's lock, and says in words why it failed.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "../../include/cuda.h"

namespace softcuda {

struct Context;

enum class EntryId {
#define ENTRY(symbol, base, since) symbol,
#include "entries.inc"
#undef ENTRY
  count
};

// Call is one call of an entry that has got as far as its own work.
struct Call {
  const char* entry = nullptr;
  std::unique_lock<std::mutex> lock;    // the driver's; work on the device runs without it
  std::shared_ptr<Context> context;     // current on this thread; null if the entry needs none
  bool doomed = false;                  // an error sticks to the context: only freeing is left to do
  std::string why;                      // for last_fault, when the entry fails

  CUresult fail(CUresult error, std::string text) {
    why = std::move(text);
    return error;
  }
};

enum class Needs {
  nothing,  // works before cuInit
  driver,   // cuInit
  context,  // a live current context without a sticky error
};

class Entry {
 public:
  const char* name;
  std::atomic<uint64_t> calls{0};

  using Body = std::function<CUresult(Call&)>;
  // call runs body as the entry's work. An exception is an error with its text.
  CUresult call(Needs needs, const Body& body);
  // releasing is call for entries that free something: they do so also when an error
  // is injected or sticks to the context, and then give that error, as a driver does
  // that finds an earlier error on its way. So an injected error leaks nothing.
  CUresult releasing(Needs needs, const Body& body);

 private:
  CUresult guarded(Needs needs, bool releases, const Body& body);
  CUresult injected();
};

// entry gives the one Entry of a symbol.
Entry& entry(EntryId);

// all_calls gives (symbol, calls) for every entry, in the table's order.
void for_each_entry(const std::function<void(const Entry&)>&);

// flush writes the files of SOFTCUDA_CALLS and SOFTCUDA_COUNTERS.
void flush();

}  // namespace softcuda

#define SOFTCUDA_API extern "C" __attribute__((visibility("default")))
#define THIS_ENTRY(symbol) ::softcuda::entry(::softcuda::EntryId::symbol)
