#include "layout.h"

#include <algorithm>
#include <map>

namespace softcuda {

using Flow = Decoder::Flow;

void Layout::run() {
  find_blocks();
  if (d_.has_groups_) check_groups();
  find_joins();
  insert_joins();
  find_blocks();
  find_intervals();
  place_registers();
  d_.code_.insts = std::move(insts_);
}

void Layout::find_blocks() {
  size_t n = insts_.size();
  std::vector<bool> leader(n + 1, false);
  leader[0] = true;
  for (size_t i = 0; i < n; i++) {
    if (insts_[i].target >= 0) leader[static_cast<size_t>(insts_[i].target)] = true;
    if (meta_[i].flow == Flow::table)
      for (int32_t t : d_.code_.tables[insts_[i].x]) leader[static_cast<size_t>(t)] = true;
    if (meta_[i].flow != Flow::next) leader[i + 1] = true;
  }
  blocks_.clear();
  block_of_.assign(n, 0);
  for (size_t i = 0; i < n; i++) {
    if (leader[i]) blocks_.push_back({static_cast<int32_t>(i), 0, {}, false});
    blocks_.back().to = static_cast<int32_t>(i) + 1;
    block_of_[i] = static_cast<int>(blocks_.size()) - 1;
  }
  for (size_t b = 0; b < blocks_.size(); b++) {
    auto& block = blocks_[b];
    auto last = static_cast<size_t>(block.to) - 1;
    bool guarded = insts_[last].guard != 0 || insts_[last].flip != 0;
    bool falls = true;
    switch (meta_[last].flow) {
      case Flow::next: break;
      case Flow::branch:
        block.next.push_back(block_of_[static_cast<size_t>(insts_[last].target)]);
        falls = guarded;
        break;
      case Flow::table:
        for (int32_t t : d_.code_.tables[insts_[last].x]) block.next.push_back(block_of_[static_cast<size_t>(t)]);
        falls = guarded;
        break;
      case Flow::exit:
        block.exits = true;
        falls = guarded;
        break;
    }
    if (falls && static_cast<size_t>(block.to) < n) block.next.push_back(static_cast<int>(b) + 1);
  }
}

// find_joins gives each branch its immediate post-dominator (Cooper, Harvey and
// Kennedy's iteration over the reversed graph).
void Layout::find_joins() {
  int n = static_cast<int>(blocks_.size()), exit = n;
  std::vector<std::vector<int>> before(static_cast<size_t>(n) + 1);  // predecessors
  for (int b = 0; b < n; b++) {
    for (int s : blocks_[static_cast<size_t>(b)].next) before[static_cast<size_t>(s)].push_back(b);
    if (blocks_[static_cast<size_t>(b)].exits) before[static_cast<size_t>(exit)].push_back(b);
  }
  // Postorder of the reversed graph from the exit, without recursion.
  std::vector<int> order, number(static_cast<size_t>(n) + 1, -1);
  std::vector<std::pair<int, size_t>> work{{exit, 0}};
  std::vector<bool> seen(static_cast<size_t>(n) + 1, false);
  seen[static_cast<size_t>(exit)] = true;
  while (!work.empty()) {
    int at = work.back().first;
    auto& list = before[static_cast<size_t>(at)];
    if (work.back().second < list.size()) {
      int p = list[work.back().second++];
      if (!seen[static_cast<size_t>(p)]) {
        seen[static_cast<size_t>(p)] = true;
        work.emplace_back(p, 0);
      }
    } else {
      number[static_cast<size_t>(at)] = static_cast<int>(order.size());
      order.push_back(at);
      work.pop_back();
    }
  }
  std::vector<int> idom(static_cast<size_t>(n) + 1, -1);
  idom[static_cast<size_t>(exit)] = exit;
  auto meet = [&](int a, int b) {
    while (a != b) {
      while (number[static_cast<size_t>(a)] < number[static_cast<size_t>(b)]) a = idom[static_cast<size_t>(a)];
      while (number[static_cast<size_t>(b)] < number[static_cast<size_t>(a)]) b = idom[static_cast<size_t>(b)];
    }
    return a;
  };
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t o = order.size() - 1; o-- > 0;) {
      int b = order[o], found = -1;
      auto consider = [&](int s) {
        if (number[static_cast<size_t>(s)] < 0 || idom[static_cast<size_t>(s)] < 0) return;
        found = found < 0 ? s : meet(found, s);
      };
      for (int s : blocks_[static_cast<size_t>(b)].next) consider(s);
      if (blocks_[static_cast<size_t>(b)].exits) consider(exit);
      if (found >= 0 && idom[static_cast<size_t>(b)] != found) {
        idom[static_cast<size_t>(b)] = found;
        changed = true;
      }
    }
  }
  is_join_.assign(static_cast<size_t>(n), false);
  for (int b = 0; b < n; b++) {
    auto last = static_cast<size_t>(blocks_[static_cast<size_t>(b)].to) - 1;
    if (meta_[last].flow != Flow::branch && meta_[last].flow != Flow::table) continue;
    if (blocks_[static_cast<size_t>(b)].next.size() < 2) continue;
    int j = idom[static_cast<size_t>(b)];
    if (j < 0 || j == exit) continue;
    insts_[last].join = blocks_[static_cast<size_t>(j)].from;
    is_join_[static_cast<size_t>(j)] = true;
  }
}

// insert_joins puts an instruction before each meeting point; branches to the point
// go to it.
void Layout::insert_joins() {
  std::vector<int32_t> moved(insts_.size() + 1);
  std::vector<Inst> insts;
  std::vector<Decoder::Meta> meta;
  insts.reserve(insts_.size() + 64);
  meta.reserve(insts_.size() + 64);
  for (size_t i = 0; i < insts_.size(); i++) {
    auto b = static_cast<size_t>(block_of_[i]);
    moved[i] = static_cast<int32_t>(insts.size());
    if (is_join_[b] && blocks_[b].from == static_cast<int32_t>(i)) {
      Inst join;
      join.fn = handle_join;
      join.line = insts_[i].line;
      insts.push_back(join);
      meta.emplace_back();
      meta.back().writes_d = false;
    }
    insts.push_back(insts_[i]);
    meta.push_back(meta_[i]);
  }
  for (auto& i : insts) {
    if (i.target >= 0) i.target = moved[static_cast<size_t>(i.target)];
    if (i.join >= 0) i.join = moved[static_cast<size_t>(i.join)];
  }
  for (auto& table : d_.code_.tables)
    for (auto& t : table) t = moved[static_cast<size_t>(t)];
  insts_ = std::move(insts);
  meta_ = std::move(meta);
}

template <class F>
void Layout::each_use(size_t i, F f) const {
  const Inst& ins = insts_[i];
  const auto& m = meta_[i];
  auto one = [&](Ref r, bool written) {
    if (r >= 2 && !(r & 1)) f(static_cast<size_t>(r >> 1), written);
  };
  one(ins.a, false);
  one(ins.b, false);
  one(ins.c, false);
  for (int k = m.more_outs; k < m.more; k++) one(ins.more[k], false);
  if (m.reads_d || !m.writes_d) one(ins.d, false);
  if (m.writes_d) one(ins.d, true);
  for (int k = 0; k < m.more_outs; k++) one(ins.more[k], true);
}

// find_intervals gives each register the stretch of code in which its value may still
// be wanted. A write under a guard ends nothing, as other lanes keep their values.
void Layout::find_intervals() {
  size_t registers = d_.register_sizes_.size(), words = (registers + 63) / 64, n = blocks_.size();
  intervals_.assign(registers, {});
  std::vector<uint64_t> live_in(n * words, 0), gen(n * words, 0), kill(n * words, 0), out(words);
  for (size_t b = 0; b < n; b++) {
    uint64_t *g = &gen[b * words], *k = &kill[b * words];
    for (int32_t i = blocks_[b].from; i < blocks_[b].to; i++) {
      auto at = static_cast<size_t>(i);
      bool sure = insts_[at].guard == 0 && insts_[at].flip == 0;
      each_use(at, [&](size_t r, bool written) {
        intervals_[r].reach(i);
        uint64_t bit = uint64_t{1} << (r & 63);
        if (!written && !(k[r >> 6] & bit)) g[r >> 6] |= bit;
        if (written && sure && !(g[r >> 6] & bit)) k[r >> 6] |= bit;
      });
    }
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t b = n; b-- > 0;) {
      std::fill(out.begin(), out.end(), 0);
      for (int s : blocks_[b].next)
        for (size_t w = 0; w < words; w++) out[w] |= live_in[static_cast<size_t>(s) * words + w];
      for (size_t w = 0; w < words; w++) {
        uint64_t now = gen[b * words + w] | (out[w] & ~kill[b * words + w]);
        if (now != live_in[b * words + w]) {
          live_in[b * words + w] = now;
          changed = true;
        }
      }
    }
  }
  for (size_t b = 0; b < n; b++)
    for (size_t w = 0; w < words; w++) {
      for (uint64_t bits = live_in[b * words + w]; bits; bits &= bits - 1)
        intervals_[w * 64 + static_cast<size_t>(__builtin_ctzll(bits))].reach(blocks_[b].from);
      for (int s : blocks_[b].next)
        for (uint64_t bits = live_in[static_cast<size_t>(s) * words + w]; bits; bits &= bits - 1)
          intervals_[w * 64 + static_cast<size_t>(__builtin_ctzll(bits))].reach(blocks_[b].to);
    }
  for (auto& s : d_.code_.specials) intervals_[s.slot >> 1].reach(-1);
}

void Layout::place_registers() {
  size_t registers = intervals_.size();
  std::vector<size_t> by_start;
  for (size_t r = 1; r < registers; r++)
    if (intervals_[r].to >= intervals_[r].from) by_start.push_back(r);
  std::stable_sort(by_start.begin(), by_start.end(), [&](size_t a, size_t b) { return intervals_[a].from < intervals_[b].from; });
  std::vector<Slot> slots(registers, 0);
  std::vector<Slot> spare[9];
  std::multimap<int32_t, size_t> ends;
  Slot top = 256;  // the first line is nobody's
  size_t live = 0, most = 0;
  for (size_t r : by_start) {
    while (!ends.empty() && ends.begin()->first < intervals_[r].from) {
      size_t done = ends.begin()->second;
      spare[d_.register_sizes_[done]].push_back(slots[done]);
      live -= d_.register_sizes_[done];
      ends.erase(ends.begin());
    }
    unsigned bytes = d_.register_sizes_[r];
    auto& pool = spare[bytes];
    if (pool.empty()) {
      slots[r] = top;
      top += 32 * bytes;
    } else {
      slots[r] = pool.back();
      pool.pop_back();
    }
    live += bytes;
    most = std::max(most, live);
    ends.emplace(intervals_[r].to, r);
  }
  auto place = [&](Slot& s) {
    if (!(s & 1)) s = slots[s >> 1];
  };
  for (size_t i = 0; i < insts_.size(); i++) {
    auto& ins = insts_[i];
    place(ins.d);
    place(ins.a);
    place(ins.b);
    place(ins.c);
    for (int k = 0; k < meta_[i].more; k++) place(const_cast<Slot&>(ins.more[k]));
  }
  for (auto& s : d_.code_.specials) place(s.slot);
  d_.code_.register_bytes = (top + 255) / 256 * 256;
  d_.code_.info.regs = static_cast<unsigned>(std::min<size_t>(255, (most + 3) / 4 + 8));
}

}  // namespace softcuda
