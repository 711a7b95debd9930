// The last steps of decoding: where diverged lanes meet again, and which bytes of a
// warp's register file each virtual register gets.
#pragma once

#include <cstdint>
#include <vector>

#include "decode.h"

namespace softcuda {

class Layout {
 public:
  explicit Layout(Decoder& d) : d_(d), insts_(d.insts_), meta_(d.meta_) {}
  void run();

 private:
  struct BasicBlock {
    int32_t from, to;  // instructions [from, to)
    std::vector<int> next;
    bool exits = false;
  };
  struct Interval {
    int32_t from = INT32_MAX, to = -1;
    void reach(int32_t at) {
      from = std::min(from, at);
      to = std::max(to, at);
    }
  };

  void find_blocks();
  void find_joins();
  void insert_joins();
  void check_groups();  // in groups.cpp
  void find_intervals();
  void place_registers();
  template <class F>
  void each_use(size_t i, F f) const;  // f(virtual register, is it written)

  Decoder& d_;
  std::vector<Inst>& insts_;
  std::vector<Decoder::Meta>& meta_;
  std::vector<int> block_of_;
  std::vector<BasicBlock> blocks_;
  std::vector<bool> is_join_;
  std::vector<Interval> intervals_;
};

}  // namespace softcuda
