// A PTX module as parsed: names resolved to declarations, instructions still words.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "lexer.h"
#include "type.h"

namespace softcuda::ptx {

enum class Space : uint8_t { generic, reg, param, local, shared, global, constant };
std::string_view name_of(Space);

struct Variable;
struct Function;

// Patch is an address within an initialiser: the variable's address plus offset goes
// to byte `at`.
struct Patch {
  size_t at;
  const Variable* variable;
  int64_t offset;
};

// Variable is a register, a parameter, or memory with a name.
struct Variable {
  std::string name;
  Space space = Space::reg;
  Type type = Type::none;
  unsigned vector = 1;    // .v2, .v4
  uint64_t count = 1;     // elements of an array
  unsigned align = 0;
  bool is_array = false;
  bool external = false;  // extern .shared: the launch's dynamic shared memory
  int line = 0;
  int id = 0;             // registers: index in the function; others: order of declaration
  std::vector<uint8_t> init;  // shorter than bytes(): the rest is zero; empty: none given
  std::vector<Patch> patches;
  uint64_t bytes() const { return uint64_t{bytes_of(type)} * vector * count; }
};

struct Operand {
  enum Kind : uint8_t {
    reg,      // var
    special,  // name, e.g. %tid.x
    integer,  // value
    f32,      // value: the float's bits
    f64,      // value: the double's bits
    address,  // the address of var, plus value: a plain name in an operand
    memory,   // [base + value]: base is var (register or memory) or none
    vector,   // elements: {a, b}
    list,     // elements: (a, b), of a call
    label,    // name, scope
    sink,     // _
  };
  Kind kind = sink;
  bool negated = false;             // !%p
  const Variable* var = nullptr;
  int64_t value = 0;
  std::string_view name;
  int scope = 0;                    // of a label
  std::vector<Operand> elements;
  std::unique_ptr<Operand> second;  // d|p

  Operand() = default;
  Operand(Operand&&) = default;
  Operand& operator=(Operand&&) = default;
};

struct Instruction {
  int line = 0;
  const Variable* guard = nullptr;
  bool guard_negated = false;
  std::string_view opcode;
  std::vector<std::string_view> modifiers;
  std::vector<Operand> operands;
};

// Function is an .entry or a .func.
struct Function {
  std::string name;
  bool entry = false;
  bool defined = false;
  int line = 0, end_line = 0;
  std::vector<const Variable*> params, results;
  std::vector<std::unique_ptr<Variable>> registers, variables;  // what it declares
  std::vector<Instruction> code;
  std::vector<int> scope_parent;                               // of each scope
  std::map<std::pair<int, std::string_view>, size_t> labels;   // (scope, name) -> index in code
  std::map<std::pair<int, std::string_view>, std::vector<std::string_view>> branch_targets;
  unsigned max_threads = 0;
  unsigned required_block[3] = {0, 0, 0};

  // label finds a label as seen from a scope, or gives false.
  bool label(int scope, std::string_view name, size_t* index) const;
};

struct Ast {
  std::string text;  // everything above refers to it
  int version = 0;   // 84
  int target = 0;    // 80
  std::vector<std::unique_ptr<Variable>> variables;  // .global, .const, .shared of the module
  std::vector<std::unique_ptr<Function>> functions;
  std::map<std::string_view, Function*> function_by_name;
};

// parse reads a whole module; it throws SyntaxError.
std::unique_ptr<Ast> parse(std::string_view text);

}  // namespace softcuda::ptx
