// Branches, calls, exits and the instructions that do nothing here.
//
// Diverged lanes run one side after the other and meet at the immediate
// post-dominator of the branch. The top frame of the stack is the one that runs; a
// frame's pc is where it goes on when it becomes the top.
#include "decode.h"
#include "hopper.h"

namespace softcuda {

using ptx::Operand;
using ptx::Type;

void Warp::resume() {
  while (!stack.empty()) {
    active = stack.back().mask & live;
    if (active) {
      pc = stack.back().pc;
      return;
    }
    stack.pop_back();
  }
  active = 0;
}

namespace {

void push(Warp& w, int32_t join, int32_t pc, uint32_t mask) { w.stack.push_back({join, pc, mask}); }

// part sends the lanes of `taken` to target and the rest of the active ones to
// w.pc; both meet at join.
void part(Warp& w, uint32_t taken, int32_t target, int32_t join) {
  uint32_t rest = w.active & ~taken;
  int32_t next = w.pc;
  if (target == next) return;
  Frame& top = w.stack.back();
  if (top.join == join) {
    // An outer frame waits at join already; lanes that go there need no frame.
    if (target == join) {
      top.mask = rest;
      w.active = rest;
      return;
    }
    if (next == join) {
      top.mask = taken;
      w.active = taken;
      w.pc = target;
      return;
    }
    top.mask = rest;
    top.pc = next;
  } else {
    top.mask = w.active;
    top.pc = join;
    if (join == kNever) {
      top.mask = rest;
      top.pc = next;
    } else if (next != join) {
      push(w, join, next, rest);
    }
  }
  if (target == join) {
    w.active = rest;
    return;  // the frame just pushed runs on
  }
  push(w, join, target, taken);
  w.active = taken;
  w.pc = target;
}

int backward(Warp& w, const Inst& i) {
  if (--w.budget) return kNext;
  w.budget = kTurn;
  if (w.block->steps_left <= kTurn)
    return fault(w, i, -1, 0, "timeout", kErrorLaunchTimeout, "the block has taken too many backward branches: an endless loop?");
  w.block->steps_left -= kTurn;
  return kYield;
}

int handle_trap(Warp& w, const Inst& i) {
  return fault(w, i, -1, 0, "trap", kErrorLaunchFailed, "the kernel executed trap");
}

int handle_nop(Warp&, const Inst&) { return kNext; }

// text_at reads a string of the module's, for messages.
std::string text_at(Warp& w, uint64_t address) {
  std::string text;
  Memory& memory = *w.block->memory;
  while (text.size() < 200 && memory.holds(address, 1) && memory.written(address, 1)) {
    char c = *reinterpret_cast<const char*>(address++);
    if (!c) break;
    text += c;
  }
  return text;
}

// a, b and c are where in local memory the message, the file and the line lie, plus one.
int handle_assert(Warp& w, const Inst& i) {
  int lane = __builtin_ctz(w.mask);
  const uint8_t* local = w.block->local + static_cast<size_t>(w.id * 32 + lane) * w.block->local_bytes;
  auto value = [&](Slot s, size_t bytes) {
    uint64_t v = 0;
    if (unraw(s)) memcpy(&v, local + unraw(s) - 1, bytes);
    return v;
  };
  std::string text = "assertion \"" + text_at(w, value(i.a, 8)) + "\" failed";
  if (unraw(i.b)) text += " at " + text_at(w, value(i.b, 8)) + ":" + std::to_string(value(i.c, 4));
  return fault(w, i, lane, 0, "assert", kErrorAssert, std::move(text));
}

int handle_printf(Warp& w, const Inst& i) {
  return fault(w, i, -1, 0, "unsupported", kErrorLaunchFailed, "the kernel called printf, which is not supported");
}

void bra(Decoder& d) {
  d.has("uni");
  d.want(1);
  auto& o = d.operand(0);
  if (o.kind != Operand::label) d.fail("bra wants a label");
  d.put(handle_branch, 0);
  d.flow(Decoder::Flow::branch);
  d.branch_to(o.name, o.scope);
}

void brx(Decoder& d) {
  if (!d.has("idx")) d.fail("brx without .idx");
  d.has("uni");
  d.want(2);
  if (d.operand(1).kind != Operand::label) d.fail("brx.idx wants the name of .branchtargets");
  Ref index = d.in(0, Type::u32);
  d.put(handle_table, 0, index);
  d.flow(Decoder::Flow::table);
  d.table_of(d.operand(1).name, d.operand(1).scope);
}

void call(Decoder& d) {
  for (size_t i = 0; i < d.operands() && i < 2; i++) {
    if (d.operand(i).kind != Operand::label) continue;
    if (d.operand(i).name == "__assertfail" || d.operand(i).name == "vprintf") {
      d.has("uni");
      if (d.operand(i).name == "vprintf") {
        d.put(handle_printf, 0);
        return;
      }
      Slot at[3] = {raw(0), raw(0), raw(0)};
      if (i + 1 < d.operands() && d.operand(i + 1).kind == Operand::list)
        for (size_t k = 0; k < 3 && k < d.operand(i + 1).elements.size(); k++) {
          auto& e = d.operand(i + 1).elements[k];
          if (e.kind == Operand::address && d.is_local(*e.var) && e.var->bytes() >= (k == 2 ? 4 : 8)) at[k] = raw(static_cast<uint32_t>(d.address_of(*e.var)) + 1);
        }
      d.put(handle_assert, 0, at[0], at[1], at[2]);
      return;
    }
    break;
  }
  d.call();
}

void ret(Decoder& d) {
  d.has("uni");
  d.want(0);
  d.leave();
}

void exit(Decoder& d) {
  d.want(0);
  d.put(handle_exit, 0);
  d.flow(Decoder::Flow::exit);
}

void trap(Decoder& d) {
  d.want(0);
  d.put(handle_trap, 0);
}

void nop(Decoder& d) {
  d.want(0, 2);
  d.put(handle_nop, 0);
}

// Order among threads is that of execution here, so fences have nothing to do; the
// race check does not take them for barriers.
void fence(Decoder& d) {
  if (d.has("proxy")) return proxy_fence(d);
  if (d.has("mbarrier_init")) {  // There are no clusters: nothing to order it for.
    if (!d.has("release") || !d.has("cluster")) d.fail("fence.mbarrier_init wants .release.cluster");
    d.want(0);
    d.put(handle_nop, 0);
    return;
  }
  d.one_of({"sc", "acq_rel"});
  if (d.one_of({"gl", "sys", "cta", "gpu", "cluster"}) < 0) d.fail("a fence lacks its scope");
  d.want(0);
  d.put(handle_nop, 0);
}

void nanosleep(Decoder& d) {
  d.type();
  d.want(1);
  d.put(handle_nop, 0, d.in(0, Type::u32));
}

}  // namespace

int handle_branch(Warp& w, const Inst& i) {
  if (w.mask == w.active) {
    bool back = i.target < w.pc;
    w.pc = i.target;
    return back ? backward(w, i) : kNext;
  }
  bool back = i.target < w.pc;
  part(w, w.mask, i.target, i.join);
  return back ? backward(w, i) : kNext;
}

int handle_table(Warp& w, const Inst& i) {
  auto& table = w.block->code->tables[i.x];
  const uint32_t* index = src<uint32_t>(w, i.a);
  for (uint32_t m = w.mask; m; m &= m - 1)
    if (int l = __builtin_ctz(m); index[l] >= table.size())
      return fault(w, i, l, 0, "trap", kErrorLaunchFailed, "brx.idx with index " + std::to_string(index[l]) + " of " + std::to_string(table.size()) + " targets");
  // One group leaves; the others execute this instruction again, until it is uniform
  // or their guard is false.
  int32_t target = table[index[__builtin_ctz(w.mask)]];
  uint32_t group = 0;
  each_lane(w.mask, [&](int l) { group |= table[index[l]] == target ? 1u << l : 0; });
  bool back = target < w.pc;
  if (group == w.active) {
    w.pc = target;
  } else {
    w.pc--;
    part(w, group, target, i.join);
  }
  return back ? backward(w, i) : kNext;
}

int handle_exit(Warp& w, const Inst&) {
  w.live &= ~w.mask;
  w.active &= ~w.mask;
  if (w.active) return kNext;
  w.resume();
  return w.active ? kNext : kDone;
}

int handle_join(Warp& w, const Inst&) {
  w.count--;
  if (w.stack.back().join == w.pc - 1) {
    w.stack.pop_back();
    w.resume();  // the other side, or the frame that waits here
  }
  return kNext;
}

const OpEntry kControlOps[] = {
    {"bra", bra}, {"brx", brx}, {"call", call}, {"ret", ret}, {"exit", exit}, {"trap", trap}, {"brkpt", trap},
    {"pmevent", nop}, {"membar", fence}, {"fence", fence}, {"nanosleep", nanosleep}, {"", nullptr},
};

}  // namespace softcuda
