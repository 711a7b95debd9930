// From parsed instructions to handlers: what the files of instructions (integer.cpp,
// float.cpp, …) use to say how an instruction of theirs is executed.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "code.h"

namespace softcuda {

// Ref is an operand before registers are placed: the number of a virtual register
// times two, or the final slot of a constant (odd).
using Ref = uint32_t;

// A lane's operand takes 2, 4 or 8 bytes in a register.
inline unsigned container(ptx::Type t) { return ptx::bytes_of(t) < 2 ? 2 : ptx::bytes_of(t); }

inline std::string quote(std::string_view s) { return "\"" + std::string(s) + "\""; }

struct PredRef {
  uint32_t index = 0;
  uint32_t flip = 0;
};

// Address is what stands between brackets: base + offset.
struct Address {
  Ref base = 0;
  int64_t offset = 0;
  bool narrow = false;  // the base has 32 bits
};

class Decoder {
 public:
  Decoder(const ptx::Ast& ast, const Module& module, Code& code) : ast_(ast), module_(module), code_(code) {}
  // kernel decodes the whole of an entry; it throws ptx::SyntaxError.
  void kernel(const ptx::Function& entry);

  // ---- for the files of instructions ----
  const ptx::Instruction& ins() const { return *ins_; }
  [[noreturn]] void fail(const std::string& text) const;

  // Modifiers. Each is consumed when it is asked for; what is left at the end of the
  // instruction is an error that names it.
  bool has(std::string_view word);
  int one_of(std::initializer_list<std::string_view> words);  // index, or -1
  bool has_prefix(std::string_view prefix);                   // consumes one
  ptx::Type type();                                           // the next that is a type
  ptx::Type type_or_none();

  // Operands.
  size_t operands() const { return ins_->operands.size(); }
  void want(size_t least, size_t most);
  void want(size_t n) { want(n, n); }
  const ptx::Operand& operand(size_t i) const { return ins_->operands[i]; }
  Ref in(const ptx::Operand&, ptx::Type);
  Ref in(size_t i, ptx::Type t) { return in(operand(i), t); }
  Ref out(const ptx::Operand&, ptx::Type);
  Ref out(size_t i, ptx::Type t) { return out(operand(i), t); }
  // The relaxed forms of ld, st and cvt take registers wider than the type.
  Ref in_relaxed(const ptx::Operand&, ptx::Type);
  Ref out_relaxed(const ptx::Operand&, ptx::Type);
  PredRef pred_in(const ptx::Operand&);
  uint32_t pred_out(const ptx::Operand&);
  Address address(const ptx::Operand&, ptx::Space);
  // elements gives the operands of {a, b}, or the operand itself.
  std::vector<const ptx::Operand*> elements(size_t i) const;
  bool is_predicate(const ptx::Operand&) const;
  // is_local says whether .param memory is that of a call, not that of the kernel.
  bool is_local(const ptx::Variable& v) const { return v.space == ptx::Space::reg ? instance_ != 0 : !params_.count(&v); }
  int64_t immediate(size_t i, int64_t low, int64_t high, const char* what);

  Ref constant(uint64_t bits, unsigned bytes);  // 2, 4 or 8 a lane
  Ref temporary(unsigned bytes);
  uint64_t address_of(const ptx::Variable&);    // in its own space; of global, generic

  // put appends an instruction under the guard; d is written, a, b and c are read.
  Inst& put(Handler fn, Ref d, Ref a = 0, Ref b = 0, Ref c = 0, int64_t imm = 0, uint32_t x = 0);
  // With more operands: outs are written, ins are read; Inst::more has outs first.
  Inst& put_more(Handler fn, const std::vector<Ref>& outs, const std::vector<Ref>& ins, int64_t imm = 0, uint32_t x = 0);
  // reads_d says that the last instruction reads d as well.
  void reads_d() { meta_.back().reads_d = true; }

  // Control.
  enum class Flow : uint8_t { next, branch, table, exit };
  void flow(Flow f) { meta_.back().flow = f; }
  // group_step says what the last instruction is to wgmma's rules about registers.
  enum class Group : uint8_t { none, fence, product, commit, wait };
  void group_step(Group g) { meta_.back().group = g, has_groups_ = true; }
  void branch_to(std::string_view label, int scope);  // target of the last instruction
  void table_of(std::string_view label, int scope);
  void call();
  void leave();  // ret
  Code& code() { return code_; }

 private:
  friend class Layout;
  struct Meta {
    Flow flow = Flow::next;
    bool reads_d = false;
    bool writes_d = true;
    Group group = Group::none;
    uint16_t more = 0, more_outs = 0;
  };
  struct Fixup {
    size_t inst;
    int table;  // index in code.tables, or -1
    int entry;
    int instance;
    size_t target;  // index in the function's code
  };
  // Instance is one inlined copy of a function.
  struct Instance {
    const ptx::Function* function = nullptr;
    int parent = -1;
    std::unordered_map<const ptx::Variable*, Ref> registers;
    std::unordered_map<const ptx::Variable*, uint32_t> predicates;
    std::unordered_map<const ptx::Variable*, int64_t> local;
    std::vector<int32_t> starts;  // of each instruction of the function in insts
  };

  void collect(const ptx::Function&, std::vector<const ptx::Function*>& seen, int depth);
  void collect(const ptx::Operand&);
  void place_parameters(const ptx::Function& entry);
  void function(int instance, int depth);
  void instruction(const ptx::Instruction&);
  void place_locals(Instance&);
  Ref register_of(const ptx::Variable&);
  uint32_t predicate_of(const ptx::Variable&);
  Ref special(std::string_view name, unsigned bytes);
  Ref new_register(unsigned bytes);
  void check_width(const ptx::Variable&, ptx::Type) const;

  const ptx::Ast& ast_;
  const Module& module_;
  Code& code_;
  const ptx::Instruction* ins_ = nullptr;
  std::vector<bool> used_;  // modifiers
  PredRef guard_;
  std::vector<Inst> insts_;
  std::vector<Meta> meta_;
  std::vector<uint8_t> register_sizes_{4};  // bytes a lane of each virtual register; 0 is nobody's
  std::map<std::pair<uint64_t, unsigned>, Ref> constant_refs_;
  std::map<std::pair<std::string, unsigned>, Ref> special_refs_;
  std::unordered_map<const ptx::Variable*, int64_t> shared_;
  std::unordered_map<const ptx::Variable*, int64_t> params_;
  std::vector<Instance> instances_;
  int instance_ = 0;
  int depth_ = 0;
  bool has_groups_ = false;
  std::vector<Fixup> fixups_;
  struct Widen {
    Ref to, from;
    unsigned to_bytes, from_bytes;
    bool is_signed;
  };
  std::vector<Widen> widen_;
};

struct OpEntry {
  std::string_view name;
  void (*decode)(Decoder&);
};

// The tables of the files of instructions, each ended by an empty name.
extern const OpEntry kMoveOps[], kIntegerOps[], kLogicOps[], kFloatOps[], kHalfOps[], kConvertOps[], kCompareOps[],
    kMemoryOps[], kAtomicOps[], kAsyncOps[], kWarpOps[], kMatrixOps[], kBarrierOps[], kGroupOps[], kControlOps[];

// Control flow, in control.cpp.
int handle_branch(Warp&, const Inst&);
int handle_table(Warp&, const Inst&);
int handle_exit(Warp&, const Inst&);
int handle_join(Warp&, const Inst&);

}  // namespace softcuda
