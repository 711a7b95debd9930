#include "counters.h"

#include <fcntl.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <map>
#include <mutex>
#include <vector>

#include "../../include/softcuda.h"
#include "config.h"

namespace softcuda {
namespace {

// File is a JSON object of one line for each name, whose lines keep their length.
class File {
 public:
  explicit File(const std::string& path) : path_(path) {
    if (path.empty()) return;
    file_ = open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file_ < 0) std::fprintf(stderr, "softcuda: %s cannot be written: %m\n", path.c_str());
  }
  bool wanted() const { return file_ >= 0; }

  // put writes a line of `"name": value` in place; a new one goes to the end.
  void put(const std::string& name, const std::string& value) {
    auto [at, fresh] = places_.try_emplace(name, end_);
    std::string line = (at->second ? ",\n  \"" : "{\n  \"") + name + "\": " + value;
    if (fresh) {
      end_ = at->second + off_t(line.size());
      line += "\n}\n";
    }
    write_at(line, at->second);
  }

  void sync() {
    if (wanted()) fsync(file_);
  }

 private:
  void write_at(const std::string& text, off_t at) {
    if (pwrite(file_, text.data(), text.size(), at) != ssize_t(text.size())) {
      std::fprintf(stderr, "softcuda: %s cannot be written: %m\n", path_.c_str());
    }
  }

  std::string path_;
  int file_ = -1;
  off_t end_ = 0;
  std::map<std::string, off_t> places_;
};

std::string padded(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "%16" PRIu64, value);
  return text;
}

struct CallsFile {
  std::mutex lock;
  File file{config().calls};
  CallsFile() {
    if (!file.wanted()) return;
    for_each_entry([&](const Entry& one) { file.put(one.name, padded(0)); });
  }
};

CallsFile& calls_file() {
  static CallsFile* f = new CallsFile;
  return *f;
}

struct CountersFile {
  std::mutex lock;
  File file{config().counters};
  std::map<std::string, Counters> kernels;
};

CountersFile& counters_file() {
  static CountersFile* f = new CountersFile;
  return *f;
}

std::string json(const Counters& c) {
  const std::pair<const char*, uint64_t> fields[] = {
      {"launches", c.launches},
      {"instructions", c.instructions},
      {"global_load_sectors", c.global_load_sectors},
      {"global_store_sectors", c.global_store_sectors},
      {"global_load_bytes", c.global_load_bytes},
      {"global_store_bytes", c.global_store_bytes},
      {"shared_accesses", c.shared_accesses},
      {"bank_conflicts", c.bank_conflicts},
      {"uncoalesced", c.uncoalesced},
      {"barriers", c.barriers},
      {"atomics", c.atomics},
  };
  std::string text = "{";
  for (const auto& [name, value] : fields) {
    text += (text.size() > 1 ? ", \"" : "\"") + std::string(name) + "\": " + padded(value);
  }
  return text + "}";
}

}  // namespace

void note_call(const Entry& entry, uint64_t calls) {
  if (config().calls.empty()) return;
  CallsFile& f = calls_file();
  std::lock_guard<std::mutex> guard(f.lock);
  if (f.file.wanted()) f.file.put(entry.name, padded(calls));
}

void note_launch(const std::string& kernel, const Counters& counters) {
  if (config().counters.empty()) return;
  CountersFile& f = counters_file();
  std::lock_guard<std::mutex> guard(f.lock);
  Counters& sum = f.kernels[kernel];
  sum.add(counters);
  if (f.file.wanted()) f.file.put(kernel, json(sum));
}

void flush() {
  {
    CallsFile& f = calls_file();
    std::lock_guard<std::mutex> guard(f.lock);
    f.file.sync();
  }
  CountersFile& f = counters_file();
  std::lock_guard<std::mutex> guard(f.lock);
  f.file.sync();
}

}  // namespace softcuda

extern "C" __attribute__((visibility("default"))) void softcudaFlush(void) { softcuda::flush(); }
