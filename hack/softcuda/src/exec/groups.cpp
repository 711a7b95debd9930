// What wgmma asks of a kernel's registers, looked for in all its paths when it is
// loaded: sums are not touched, and A's registers not written, until the group that has
// them is waited for; and between a write of any of them and a product that has them is a
// wgmma.fence.
#include <algorithm>

#include "layout.h"

namespace softcuda {

namespace {

// State is what is known of each register before an instruction: of how many commits
// ago the product is that writes it, or reads it, and whether it was written since the
// last fence.
struct State {
  static constexpr uint8_t kIdle = 255;
  std::vector<uint8_t> writes, reads;
  std::vector<bool> dirty;
  bool reached = false;
  explicit State(size_t n) : writes(n, kIdle), reads(n, kIdle), dirty(n, false) {}
  // meet adds what is known on another path, and says whether that changed anything.
  bool meet(const State& o) {
    bool changed = !reached;
    reached = true;
    for (size_t r = 0; r < writes.size(); r++) {
      changed |= o.writes[r] < writes[r] || o.reads[r] < reads[r] || (o.dirty[r] && !dirty[r]);
      writes[r] = std::min(writes[r], o.writes[r]);
      reads[r] = std::min(reads[r], o.reads[r]);
      dirty[r] = dirty[r] || o.dirty[r];
    }
    return changed;
  }
};

void commit(std::vector<uint8_t>& ages) {
  for (auto& a : ages)
    if (a < State::kIdle - 1) a++;
}

void wait(std::vector<uint8_t>& ages, int64_t rest) {
  for (auto& a : ages)
    if (a > rest && a >= 1) a = State::kIdle;
}

}  // namespace

void Layout::check_groups() {
  using Group = Decoder::Group;
  size_t registers = d_.register_sizes_.size();
  auto fail = [](int line, const char* text) { throw ptx::SyntaxError{line, text}; };
  auto index = [](Ref r) { return r >= 2 && !(r & 1) ? static_cast<size_t>(r >> 1) : 0; };
  auto step = [&](State& s, size_t at) {
    const Inst& ins = insts_[at];
    const auto& m = meta_[at];
    switch (m.group) {
      case Group::fence: std::fill(s.dirty.begin(), s.dirty.end(), false); return;
      case Group::commit: commit(s.writes), commit(s.reads); return;
      case Group::wait: wait(s.writes, ins.imm), wait(s.reads, ins.imm); return;
      case Group::product: {
        // A in registers is before the descriptor of B and the sums.
        int a = m.more - 2 * m.more_outs - 1;
        for (int k = 0; k < m.more; k++) {
          size_t r = index(ins.more[k]);
          bool sum = k < m.more_outs || k >= m.more_outs + a + 1, of_a = a == 4 && k >= m.more_outs && k < m.more_outs + 4;
          if (!sum && s.writes[r] != State::kIdle) fail(ins.line, "wgmma reads a register that a wgmma.mma_async before it is still writing: wgmma.wait_group must come between");
          if ((sum || of_a) && r && s.dirty[r]) fail(ins.line, "wgmma has a register that was written since the last wgmma.fence: another must come between");
          if (of_a) s.reads[r] = 0;
        }
        for (int k = 0; k < m.more_outs; k++) s.writes[index(ins.more[k])] = 0;
        return;
      }
      case Group::none: break;
    }
    auto read = [&](Ref r) {
      if (s.writes[index(r)] != State::kIdle) fail(ins.line, "a register is used that a wgmma.mma_async is still writing: wgmma.wait_group must come between");
    };
    auto write = [&](Ref r) {
      read(r);
      if (s.reads[index(r)] != State::kIdle) fail(ins.line, "a register is written that a wgmma.mma_async is still reading: wgmma.wait_group must come between");
      s.dirty[index(r)] = true;
    };
    for (Ref r : {ins.a, ins.b, ins.c}) read(r);
    for (int k = m.more_outs; k < m.more; k++) read(ins.more[k]);
    if (m.writes_d) write(ins.d);
    else read(ins.d);
    for (int k = 0; k < m.more_outs; k++) write(ins.more[k]);
  };
  std::vector<State> before(blocks_.size(), State(registers));
  State start(registers);
  start.dirty.assign(registers, true);
  before[0].meet(start);
  std::vector<size_t> work{0};
  while (!work.empty()) {
    size_t b = work.back();
    work.pop_back();
    State s = before[b];
    for (int32_t i = blocks_[b].from; i < blocks_[b].to; i++) step(s, static_cast<size_t>(i));
    for (int next : blocks_[b].next)
      if (before[static_cast<size_t>(next)].meet(s)) work.push_back(static_cast<size_t>(next));
  }
}

}  // namespace softcuda
