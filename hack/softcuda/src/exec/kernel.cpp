// A kernel as a whole: where its parameters, shared and local variables lie, and the
// functions it calls, which are inlined.
#include <algorithm>

#include "decode.h"
#include "layout.h"

namespace softcuda {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

namespace {

constexpr int kMaxCallDepth = 32;
constexpr uint64_t kMaxLocal = 1 << 20;

template <class T>
int copy(Warp& w, const Inst& i) {
  const T* a = src<T>(w, i.a);
  lanes(dst<T>(w, i.d), w.mask, [=](int l) { return a[l]; });
  return kNext;
}

}  // namespace

void Decoder::place_locals(Instance& instance) {
  for (auto& v : instance.function->variables) {
    if (v->space != Space::local && v->space != Space::param) continue;
    if (instance.local.count(v.get()) || params_.count(v.get())) continue;
    uint64_t align = std::max(1u, v->align), at = (code_.info.local_bytes + align - 1) / align * align;
    if (at + v->bytes() > kMaxLocal) throw ptx::SyntaxError{v->line, "more than 1 MiB of local memory a thread"};
    instance.local[v.get()] = static_cast<int64_t>(at);
    code_.info.local_bytes = at + v->bytes();
  }
}

void Decoder::function(int instance, int depth) {
  instance_ = instance;
  const ptx::Function& f = *instances_[static_cast<size_t>(instance)].function;
  place_locals(instances_[static_cast<size_t>(instance)]);
  for (auto& ins : f.code) {
    instances_[static_cast<size_t>(instance)].starts.push_back(static_cast<int32_t>(insts_.size()));
    depth_ = depth;
    instruction(ins);
    instance_ = instance;
  }
  // Falling off the end is a return.
  instances_[static_cast<size_t>(instance)].starts.push_back(static_cast<int32_t>(insts_.size()));
}

// call inlines a function: its parameters become names for the caller's.
void Decoder::call() {
  has("uni");
  const Operand* results = nullptr;
  const Operand* arguments = nullptr;
  size_t at = 0;
  if (at < operands() && operand(at).kind == Operand::list) results = &operand(at++);
  if (at >= operands() || operand(at).kind != Operand::label) fail("indirect calls are not supported");
  std::string_view callee = operand(at++).name;
  if (at < operands() && operand(at).kind == Operand::list) arguments = &operand(at++);
  if (at != operands()) fail("indirect calls are not supported");
  auto it = ast_.function_by_name.find(callee);
  if (it == ast_.function_by_name.end()) fail("no function " + quote(callee));
  const ptx::Function& f = *it->second;
  if (!f.defined) fail("function " + quote(callee) + " has no body");
  if (f.entry) fail(quote(callee) + " is an entry");
  if (depth_ >= kMaxCallDepth) fail("calls nested too deeply: recursion is not supported");
  for (int p = instance_; p >= 0; p = instances_[static_cast<size_t>(p)].parent)
    if (instances_[static_cast<size_t>(p)].function == &f) fail("recursive call of " + quote(callee) + " is not supported");
  size_t nargs = arguments ? arguments->elements.size() : 0, nresults = results ? results->elements.size() : 0;
  if (nargs != f.params.size() || nresults != f.results.size()) fail("call of " + quote(callee) + " does not fit its parameters");

  Instance next;
  next.function = &f;
  next.parent = instance_;
  std::vector<std::pair<const ptx::Variable*, Ref>> copy_in, copy_out;
  auto bind = [&](const ptx::Variable& formal, const Operand& actual, bool result) {
    if (formal.space == Space::reg) {
      if (formal.type == Type::pred) fail("predicates as parameters are not supported");
      Ref value = result ? out(actual, formal.type) : in(actual, formal.type);
      (result ? copy_out : copy_in).emplace_back(&formal, value);
      return;
    }
    if (actual.kind != Operand::address || actual.value != 0) fail("a parameter must be a .param variable");
    if (actual.var->bytes() < formal.bytes()) fail("parameter " + quote(actual.name) + " is too small");
    if (params_.count(actual.var)) fail("a kernel's parameter cannot be handed on");
    next.local[&formal] = static_cast<int64_t>(address_of(*actual.var));
  };
  for (size_t i = 0; i < nargs; i++) bind(*f.params[i], arguments->elements[i], false);
  for (size_t i = 0; i < nresults; i++) bind(*f.results[i], results->elements[i], true);

  auto move = [&](Ref to, Ref from, Type t) {
    unsigned bytes = container(t);
    put(bytes == 2 ? copy<uint16_t> : bytes == 4 ? copy<uint32_t> : copy<uint64_t>, to, from);
  };
  // A guarded call jumps around the body.
  size_t skip = 0;
  bool guarded = ins_->guard != nullptr;
  PredRef guard = guard_;
  if (guarded) {
    guard_.flip = ~guard_.flip;
    put(handle_branch, 0);
    flow(Flow::branch);
    skip = insts_.size() - 1;
    guard_ = {};
  }
  int caller = instance_, depth = depth_;
  const ptx::Instruction* ins = ins_;
  auto used = used_;
  int index = static_cast<int>(instances_.size());
  instances_.push_back(std::move(next));
  instance_ = index;
  for (auto& [formal, value] : copy_in) move(register_of(*formal), value, formal->type);
  function(index, depth + 1);
  ins_ = ins;
  used_ = used;
  guard_ = {};
  instance_ = index;
  for (auto& [formal, value] : copy_out) move(value, register_of(*formal), formal->type);
  instance_ = caller;
  depth_ = depth;
  guard_ = guard;
  if (guarded) fixups_.push_back({skip, -1, 0, index, f.code.size()});
}

void Decoder::leave() {
  if (instance_ == 0) {
    put(handle_exit, 0);
    flow(Flow::exit);
    return;
  }
  put(handle_branch, 0);
  flow(Flow::branch);
  fixups_.push_back({insts_.size() - 1, -1, 0, instance_, instances_[static_cast<size_t>(instance_)].function->code.size()});
}

void Decoder::collect(const Operand& o) {
  if (o.var && o.var->space == Space::shared) shared_.emplace(o.var, -1);
  for (auto& e : o.elements) collect(e);
}

void Decoder::collect(const ptx::Function& f, std::vector<const ptx::Function*>& seen, int depth) {
  if (std::find(seen.begin(), seen.end(), &f) != seen.end() || depth > kMaxCallDepth) return;
  seen.push_back(&f);
  for (auto& v : f.variables)
    if (v->space == Space::shared) shared_.emplace(v.get(), -1);
  for (auto& ins : f.code) {
    for (auto& o : ins.operands) collect(o);
    if (ins.opcode != "call") continue;
    for (auto& o : ins.operands) {
      auto it = o.kind == Operand::label ? ast_.function_by_name.find(o.name) : ast_.function_by_name.end();
      if (it != ast_.function_by_name.end()) collect(*it->second, seen, depth + 1);
    }
  }
}

void Decoder::place_parameters(const ptx::Function& entry) {
  size_t at = 0;
  for (auto* p : entry.params) {
    size_t align = std::max(1u, p->align);
    at = (at + align - 1) / align * align;
    params_[p] = static_cast<int64_t>(at);
    code_.info.param_offsets.push_back(static_cast<uint32_t>(at));
    code_.info.param_sizes.push_back(static_cast<uint32_t>(p->bytes()));
    at += p->bytes();
    if (at > 32764) throw ptx::SyntaxError{entry.line, "too many bytes of parameters"};
  }
  code_.info.param_bytes = at;
}

void Decoder::kernel(const ptx::Function& entry) {
  place_parameters(entry);
  std::vector<const ptx::Function*> seen;
  collect(entry, seen, 0);
  std::vector<const ptx::Variable*> shared;
  for (auto& [v, at] : shared_) shared.push_back(v);
  std::sort(shared.begin(), shared.end(), [](auto* a, auto* b) { return a->line != b->line ? a->line < b->line : a->name < b->name; });
  size_t bytes = 0, dynamic_align = 16;
  for (auto* v : shared) {
    if (v->external) {
      dynamic_align = std::max<size_t>(dynamic_align, v->align);
      continue;
    }
    size_t align = std::max(1u, v->align);
    bytes = (bytes + align - 1) / align * align;
    shared_[v] = static_cast<int64_t>(bytes);
    bytes += v->bytes();
    if (bytes > kSharedWindowBytes / 2) throw ptx::SyntaxError{v->line, "too much shared memory"};
  }
  code_.info.static_shared = bytes;
  // The launch's dynamic memory begins at the next multiple of its alignment.
  for (auto* v : shared)
    if (v->external) {
      code_.info.static_shared = (bytes + dynamic_align - 1) / dynamic_align * dynamic_align;
      shared_[v] = static_cast<int64_t>(code_.info.static_shared);
    }
  instances_.emplace_back();
  instances_[0].function = &entry;
  function(0, 0);
  ins_ = nullptr;
  guard_ = {};
  put(handle_exit, 0);
  flow(Flow::exit);
  insts_.back().line = entry.end_line;
  for (auto& f : fixups_) {
    int32_t to = instances_[static_cast<size_t>(f.instance)].starts[f.target];
    if (f.table >= 0) code_.tables[static_cast<size_t>(f.table)][static_cast<size_t>(f.entry)] = to;
    else insts_[f.inst].target = to;
  }
  Layout(*this).run();
}

}  // namespace softcuda
