#include "decode.h"

#include <algorithm>
#include <bit>

namespace softcuda {

using ptx::Operand;
using ptx::Space;
using ptx::Type;

namespace {

constexpr size_t kMaxInsts = 4000000;

const std::unordered_map<std::string_view, void (*)(Decoder&)>& operations() {
  static const auto* all = [] {
    auto* m = new std::unordered_map<std::string_view, void (*)(Decoder&)>;
    for (const OpEntry* t : {kMoveOps, kIntegerOps, kLogicOps, kFloatOps, kHalfOps, kConvertOps, kCompareOps, kMemoryOps, kAtomicOps,
                             kAsyncOps, kWarpOps, kMatrixOps, kBarrierOps, kGroupOps, kControlOps})
      for (; !t->name.empty(); t++) m->emplace(t->name, t->decode);
    return m;
  }();
  return *all;
}

template <class D, class S>
int widen(Warp& w, const Inst& i) {
  const S* a = src<S>(w, i.a);
  lanes(dst<D>(w, i.d), w.mask, [=](int l) { return static_cast<D>(a[l]); });
  return kNext;
}

template <class D, class S>
int narrow(Warp& w, const Inst& i) {
  const S* a = src<S>(w, i.a);
  lanes(dst<D>(w, i.d), w.mask, [=](int l) { return static_cast<D>(a[l]); });
  return kNext;
}

}  // namespace

void Decoder::fail(const std::string& text) const { throw ptx::SyntaxError{ins_ ? ins_->line : 0, text}; }

bool Decoder::has(std::string_view word) {
  for (size_t i = 0; i < used_.size(); i++)
    if (!used_[i] && ins_->modifiers[i] == word) {
      used_[i] = true;
      return true;
    }
  return false;
}

bool Decoder::has_prefix(std::string_view prefix) {
  for (size_t i = 0; i < used_.size(); i++)
    if (!used_[i] && ins_->modifiers[i].starts_with(prefix)) {
      used_[i] = true;
      return true;
    }
  return false;
}

int Decoder::one_of(std::initializer_list<std::string_view> words) {
  int index = 0;
  for (auto w : words) {
    if (has(w)) return index;
    index++;
  }
  return -1;
}

Type Decoder::type_or_none() {
  for (size_t i = 0; i < used_.size(); i++) {
    if (used_[i]) continue;
    Type t = ptx::type_named(ins_->modifiers[i]);
    if (t == Type::none) continue;
    used_[i] = true;
    return t;
  }
  return Type::none;
}

Type Decoder::type() {
  Type t = type_or_none();
  if (t == Type::none) fail(quote(ins_->opcode) + " lacks a type");
  return t;
}

void Decoder::want(size_t least, size_t most) {
  if (operands() >= least && operands() <= most) return;
  fail(quote(ins_->opcode) + " takes " + std::to_string(least) + (least == most ? "" : " to " + std::to_string(most)) + " operands, not " +
       std::to_string(operands()));
}

Ref Decoder::new_register(unsigned bytes) {
  register_sizes_.push_back(static_cast<uint8_t>(bytes));
  return static_cast<Ref>((register_sizes_.size() - 1) * 2);
}

Ref Decoder::temporary(unsigned bytes) { return new_register(std::max(2u, bytes)); }

Ref Decoder::constant(uint64_t bits, unsigned bytes) {
  if (bytes < 8) bits &= (uint64_t{1} << (8 * bytes)) - 1;
  auto [it, fresh] = constant_refs_.emplace(std::make_pair(bits, bytes), 0);
  if (fresh) {
    size_t at = code_.constants.size() * 8;
    code_.constants.resize(code_.constants.size() + 4 * bytes);
    auto* bank = reinterpret_cast<uint8_t*>(code_.constants.data()) + at;
    for (int l = 0; l < 32; l++) memcpy(bank + static_cast<size_t>(l) * bytes, &bits, bytes);
    it->second = static_cast<Ref>(at) | 1;
  }
  return it->second;
}

Ref Decoder::register_of(const ptx::Variable& v) {
  auto& instance = instances_[static_cast<size_t>(instance_)];
  auto [it, fresh] = instance.registers.emplace(&v, 0);
  if (fresh) {
    if (v.vector != 1) fail("vector registers are not supported");
    it->second = new_register(container(v.type));
  }
  return it->second;
}

uint32_t Decoder::predicate_of(const ptx::Variable& v) {
  auto [it, fresh] = instances_[static_cast<size_t>(instance_)].predicates.emplace(&v, 0);
  if (fresh) it->second = code_.predicates++;
  return it->second;
}

bool Decoder::is_predicate(const Operand& o) const { return o.kind == Operand::reg && o.var->type == Type::pred; }

void Decoder::check_width(const ptx::Variable& v, Type t) const {
  if (v.type == Type::pred) fail(quote(v.name) + " is a predicate where a value of ." + std::string(name_of(t)) + " is wanted");
  if (container(v.type) != container(t))
    fail(quote(v.name) + " is ." + std::string(name_of(v.type)) + " where ." + std::string(name_of(t)) + " is wanted");
}

Ref Decoder::special(std::string_view name, unsigned bytes) {
  auto [it, fresh] = special_refs_.emplace(std::make_pair(std::string(name), bytes), 0);
  if (!fresh) return it->second;
  static const std::unordered_map<std::string_view, Special> names = {
      {"%tid.x", Special::tid_x}, {"%tid.y", Special::tid_y}, {"%tid.z", Special::tid_z},
      {"%ntid.x", Special::ntid_x}, {"%ntid.y", Special::ntid_y}, {"%ntid.z", Special::ntid_z},
      {"%ctaid.x", Special::ctaid_x}, {"%ctaid.y", Special::ctaid_y}, {"%ctaid.z", Special::ctaid_z},
      {"%nctaid.x", Special::nctaid_x}, {"%nctaid.y", Special::nctaid_y}, {"%nctaid.z", Special::nctaid_z},
      {"%laneid", Special::laneid}, {"%warpid", Special::warpid}, {"%nwarpid", Special::nwarpid},
      {"%smid", Special::smid}, {"%nsmid", Special::nsmid}, {"%gridid", Special::gridid},
      {"%lanemask_eq", Special::lanemask_eq}, {"%lanemask_le", Special::lanemask_le}, {"%lanemask_lt", Special::lanemask_lt},
      {"%lanemask_ge", Special::lanemask_ge}, {"%lanemask_gt", Special::lanemask_gt},
      {"%dynamic_smem_size", Special::dynamic_smem_size}, {"%total_smem_size", Special::total_smem_size},
      {"%tid.w", Special::zero}, {"%ntid.w", Special::zero}, {"%ctaid.w", Special::zero}, {"%nctaid.w", Special::zero},
  };
  auto found = names.find(name);
  if (found == names.end()) {
    special_refs_.erase(it);
    fail("unknown register " + quote(name));
  }
  if (bytes != 4 && !(bytes == 8 && name == "%gridid")) {
    special_refs_.erase(it);
    fail(quote(name) + " has 32 bits");
  }
  it->second = new_register(bytes);
  code_.specials.push_back({found->second, it->second, bytes == 8});
  return it->second;
}

Ref Decoder::in(const Operand& o, Type t) {
  unsigned bytes = container(t);
  switch (o.kind) {
    case Operand::reg:
      check_width(*o.var, t);
      if (o.negated) fail("\"!\" stands before predicates only");
      return register_of(*o.var);
    case Operand::special: return special(o.name, bytes);
    case Operand::integer:
      if (t == Type::f32 || t == Type::f64) {
        if (o.value != 0) fail("an integer where a floating-point value is wanted");
        return constant(0, bytes);
      }
      return constant(static_cast<uint64_t>(o.value), bytes);
    case Operand::f32:
    case Operand::f64: {
      auto bits = static_cast<uint64_t>(o.value);
      if (o.kind == Operand::f32 && bytes == 4) return constant(bits, 4);
      if (o.kind == Operand::f64 && bytes == 8) return constant(bits, 8);
      if (o.kind == Operand::f64 && t == Type::f32) return constant(std::bit_cast<uint32_t>(static_cast<float>(std::bit_cast<double>(bits))), 4);
      if (o.kind == Operand::f32 && t == Type::f64) return constant(std::bit_cast<uint64_t>(static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bits)))), 8);
      fail("a floating-point value where ." + std::string(name_of(t)) + " is wanted");
    }
    case Operand::address:
      if (bytes < 4 || (bytes == 4 && o.var->space != Space::shared && o.var->space != Space::local)) fail("the address of " + quote(o.name) + " has 64 bits");
      return constant(address_of(*o.var) + static_cast<uint64_t>(o.value), bytes);
    case Operand::sink: return constant(0, bytes);
    case Operand::label: fail(quote(o.name) + " is not declared");
    default: fail("this operand is not a value");
  }
}

Ref Decoder::out(const Operand& o, Type t) {
  if (o.kind == Operand::sink) return temporary(container(t));
  if (o.kind != Operand::reg || o.negated) fail("the result must go to a register");
  check_width(*o.var, t);
  return register_of(*o.var);
}

Ref Decoder::in_relaxed(const Operand& o, Type t) {
  if (o.kind != Operand::reg || o.var->type == Type::pred || o.negated || container(o.var->type) <= container(t)) return in(o, t);
  if (ptx::is_float(t) && ptx::bytes_of(t) > 2) return in(o, t);
  Ref from = register_of(*o.var), to = temporary(container(t));
  unsigned wide = container(o.var->type), thin = container(t);
  if (wide == 8 && thin == 4) put(narrow<uint32_t, uint64_t>, to, from);
  if (wide == 8 && thin == 2) put(narrow<uint16_t, uint64_t>, to, from);
  if (wide == 4 && thin == 2) put(narrow<uint16_t, uint32_t>, to, from);
  return to;
}

Ref Decoder::out_relaxed(const Operand& o, Type t) {
  if (o.kind != Operand::reg || o.var->type == Type::pred || container(o.var->type) <= container(t)) return out(o, t);
  if (ptx::is_float(t) && ptx::bytes_of(t) > 2) return out(o, t);
  Ref to = register_of(*o.var), from = temporary(container(t));
  widen_.push_back({to, from, container(o.var->type), container(t), ptx::is_signed(t)});
  return from;
}

PredRef Decoder::pred_in(const Operand& o) {
  if (o.kind == Operand::integer) return {0, o.value ? 0 : ~0u};
  if (!is_predicate(o)) fail("a predicate is wanted");
  return {predicate_of(*o.var), o.negated ? ~0u : 0};
}

uint32_t Decoder::pred_out(const Operand& o) {
  if (o.kind == Operand::sink) return code_.predicates++;
  if (!is_predicate(o) || o.negated) fail("the result must go to a predicate");
  return predicate_of(*o.var);
}

std::vector<const Operand*> Decoder::elements(size_t i) const {
  std::vector<const Operand*> all;
  const Operand& o = operand(i);
  if (o.kind == Operand::vector)
    for (auto& e : o.elements) all.push_back(&e);
  else
    all.push_back(&o);
  return all;
}

int64_t Decoder::immediate(size_t i, int64_t low, int64_t high, const char* what) {
  const Operand& o = operand(i);
  if (o.kind != Operand::integer || o.value < low || o.value > high)
    fail(std::string(what) + " must be a number from " + std::to_string(low) + " to " + std::to_string(high));
  return o.value;
}

uint64_t Decoder::address_of(const ptx::Variable& v) {
  switch (v.space) {
    case Space::global:
    case Space::constant: {
      auto it = module_.globals.find(v.name);
      if (it == module_.globals.end()) fail(quote(v.name) + " is declared .extern and nothing defines it");
      return it->second.address;
    }
    case Space::shared: {
      auto it = shared_.find(&v);
      if (it == shared_.end()) fail(quote(v.name) + " has no place in shared memory");
      return static_cast<uint64_t>(it->second);
    }
    case Space::local:
    case Space::param: {
      for (int at = instance_; at >= 0; at = instances_[static_cast<size_t>(at)].parent) {
        auto& local = instances_[static_cast<size_t>(at)].local;
        auto it = local.find(&v);
        if (it != local.end()) return static_cast<uint64_t>(it->second);
      }
      auto it = params_.find(&v);
      if (it != params_.end()) return static_cast<uint64_t>(it->second);
      fail(quote(v.name) + " has no place");
    }
    default: fail(quote(v.name) + " is a register");
  }
}

Address Decoder::address(const Operand& o, Space space) {
  if (o.kind != Operand::memory) fail("an address in brackets is wanted");
  Address a;
  a.offset = o.value;
  if (!o.var) {
    a.base = constant(0, 8);
  } else if (o.var->space == Space::reg) {
    unsigned bytes = container(o.var->type);
    if (o.var->type == Type::pred || bytes < 4) fail(quote(o.name) + " cannot hold an address");
    if (bytes == 4 && space != Space::shared && space != Space::local && space != Space::param) fail("addresses of ." + std::string(name_of(space)) + " memory have 64 bits");
    a.narrow = bytes == 4;
    a.base = register_of(*o.var);
  } else {
    Space declared = o.var->space;
    a.base = constant(0, 8);
    uint64_t at = address_of(*o.var);
    if (space == Space::generic) {
      if (declared == Space::shared) at += kSharedWindow;
      else if (declared == Space::local) at += kLocalWindow;
    } else if (space != declared) {
      fail(quote(o.name) + " lies in ." + std::string(name_of(declared)) + " memory, not ." + std::string(name_of(space)));
    }
    a.offset += static_cast<int64_t>(at);
  }
  return a;
}

Inst& Decoder::put(Handler fn, Ref d, Ref a, Ref b, Ref c, int64_t imm, uint32_t x) {
  if (insts_.size() >= kMaxInsts) fail("kernel too long");
  Inst i;
  i.fn = fn;
  i.d = d;
  i.a = a;
  i.b = b;
  i.c = c;
  i.imm = imm;
  i.x = x;
  i.guard = guard_.index;
  i.flip = guard_.flip;
  i.line = ins_ ? ins_->line : 0;
  insts_.push_back(i);
  Meta m;
  m.writes_d = d != 0;
  meta_.push_back(m);
  return insts_.back();
}

Inst& Decoder::put_more(Handler fn, const std::vector<Ref>& outs, const std::vector<Ref>& ins, int64_t imm, uint32_t x) {
  Inst& i = put(fn, 0, 0, 0, 0, imm, x);
  auto list = std::make_unique<Slot[]>(outs.size() + ins.size());
  std::copy(outs.begin(), outs.end(), list.get());
  std::copy(ins.begin(), ins.end(), list.get() + outs.size());
  i.more = list.get();
  code_.more.push_back(std::move(list));
  meta_.back().more = static_cast<uint16_t>(outs.size() + ins.size());
  meta_.back().more_outs = static_cast<uint16_t>(outs.size());
  return i;
}

void Decoder::branch_to(std::string_view label, int scope) {
  size_t at;
  if (!instances_[static_cast<size_t>(instance_)].function->label(scope, label, &at)) fail("no label " + quote(label));
  fixups_.push_back({insts_.size() - 1, -1, 0, instance_, at});
}

void Decoder::table_of(std::string_view label, int scope) {
  auto& f = *instances_[static_cast<size_t>(instance_)].function;
  for (int s = scope; s >= 0; s = f.scope_parent[static_cast<size_t>(s)]) {
    auto it = f.branch_targets.find({s, label});
    if (it == f.branch_targets.end()) continue;
    int table = static_cast<int>(code_.tables.size());
    code_.tables.emplace_back(it->second.size(), -1);
    insts_.back().x = static_cast<uint32_t>(table);
    for (size_t e = 0; e < it->second.size(); e++) {
      size_t at;
      if (!f.label(s, it->second[e], &at)) fail("no label " + quote(it->second[e]));
      fixups_.push_back({insts_.size() - 1, table, static_cast<int>(e), instance_, at});
    }
    return;
  }
  fail("no .branchtargets " + quote(label));
}

void Decoder::instruction(const ptx::Instruction& ins) {
  ins_ = &ins;
  used_.assign(ins.modifiers.size(), false);
  guard_ = ins.guard ? PredRef{predicate_of(*ins.guard), ins.guard_negated ? ~0u : 0} : PredRef{};
  auto it = operations().find(ins.opcode);
  if (it == operations().end()) fail("unknown instruction " + quote(ins.opcode));
  it->second(*this);
  for (size_t i = 0; i < used_.size(); i++)
    if (!used_[i]) fail("unknown modifier \"." + std::string(ins.modifiers[i]) + "\" of " + quote(ins.opcode));
  auto pending = std::move(widen_);
  widen_.clear();
  for (auto& p : pending) {
    Handler fn = nullptr;
    if (p.from_bytes == 2 && p.to_bytes == 4) fn = p.is_signed ? widen<uint32_t, int16_t> : widen<uint32_t, uint16_t>;
    if (p.from_bytes == 2 && p.to_bytes == 8) fn = p.is_signed ? widen<uint64_t, int16_t> : widen<uint64_t, uint16_t>;
    if (p.from_bytes == 4 && p.to_bytes == 8) fn = p.is_signed ? widen<uint64_t, int32_t> : widen<uint64_t, uint32_t>;
    put(fn, p.to, p.from);
  }
}

}  // namespace softcuda
