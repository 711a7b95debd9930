// Function bodies: scopes, labels, instructions and their operands.
#include <bit>

#include "parser.h"

namespace softcuda::ptx {

namespace {
constexpr int kMaxDepth = 64;
constexpr size_t kMaxInstructions = 4000000;
}  // namespace

const Variable* Parser::find(int scope, std::string_view name) const {
  for (int s = scope; s >= 0; s = function_->scope_parent[static_cast<size_t>(s)]) {
    auto& names = scopes_[static_cast<size_t>(s)];
    auto it = names.find(name);
    if (it != names.end()) return it->second;
  }
  auto it = globals_.find(name);
  return it == globals_.end() ? nullptr : it->second;
}

void Parser::body(Function& f) {
  function_ = &f;
  scopes_.clear();
  scopes_.emplace_back();
  f.scope_parent = {-1};
  for (auto* v : f.params) scopes_[0][v->name] = v;
  for (auto* v : f.results) scopes_[0][v->name] = v;
  block(f, 0, 0);
  function_ = nullptr;
}

void Parser::declare(Function& f, int scope, std::vector<std::unique_ptr<Variable>> vars) {
  for (auto& v : vars) {
    auto [it, fresh] = scopes_[static_cast<size_t>(scope)].emplace(v->name, v.get());
    if (!fresh) fail_at(v->line, "\"" + v->name + "\" is declared twice");
    auto& list = v->space == Space::reg ? f.registers : f.variables;
    v->id = static_cast<int>(list.size());
    list.push_back(std::move(v));
  }
}

void Parser::block(Function& f, int scope, int depth) {
  if (depth > kMaxDepth) fail("blocks nested too deeply");
  expect('{');
  for (;;) {
    const Token& t = peek();
    if (t.kind == Token::end) fail("function without an end");
    if (t.is('}')) {
      f.end_line = t.line;
      take();
      return;
    }
    if (t.is('{')) {
      f.scope_parent.push_back(scope);
      scopes_.emplace_back();
      block(f, static_cast<int>(scopes_.size()) - 1, depth + 1);
    } else if (t.kind == Token::dotted) {
      statement_directive(f, scope);
    } else if (t.kind == Token::word && peek(1).is(':')) {
      std::string_view label = take().text;
      take();
      if (peek().kind == Token::dotted && peek().text == "branchtargets") {
        take();
        auto& targets = f.branch_targets[{scope, label}];
        do targets.push_back(name("a label"));
        while (accept(','));
        expect(';');
      } else if (peek().kind == Token::dotted && (peek().text == "callprototype" || peek().text == "calltargets")) {
        fail("indirect calls are not supported");
      } else if (!f.labels.emplace(std::make_pair(scope, label), f.code.size()).second) {
        fail("label \"" + std::string(label) + "\" stands twice");
      }
    } else {
      instruction(f, scope);
    }
  }
}

void Parser::statement_directive(Function& f, int scope) {
  std::string_view word = take().text;
  if (word == "reg") return declare(f, scope, variables(Space::reg, false));
  if (word == "local") return declare(f, scope, variables(Space::local, false));
  if (word == "shared") return declare(f, scope, variables(Space::shared, false));
  if (word == "param") return declare(f, scope, variables(Space::param, false));
  if (word == "loc") {  // .loc 1 20 3[, function_name $L, inlined_at 1 2 3]
    for (;;) {
      const Token& t = peek();
      if (t.kind == Token::integer) take();
      else if (t.is(',') && peek(1).kind == Token::word && (peek(1).text == "function_name" || peek(1).text == "inlined_at")) take(), take();
      else if (t.kind == Token::word && (t.text.starts_with("$L__info_string") || t.text.starts_with("$L__func"))) {
        take();
        if (accept('+')) integer("an offset");
      } else return;
    }
  }
  if (word == "pragma") return skip_until(';');
  fail("unknown directive \"." + std::string(word) + "\" in a function");
}

void Parser::instruction(Function& f, int scope) {
  if (f.code.size() >= kMaxInstructions) fail("function too long");
  Instruction ins;
  ins.line = peek().line;
  if (accept('@')) {
    ins.guard_negated = accept('!');
    std::string_view p = name("a predicate");
    ins.guard = find(scope, p);
    if (!ins.guard || ins.guard->space != Space::reg || ins.guard->type != Type::pred) fail("\"" + std::string(p) + "\" is no predicate");
  }
  ins.opcode = name("an instruction");
  ins.line = tokens_[at_ - 1].line;
  while (peek().kind == Token::dotted) ins.modifiers.push_back(take().text);
  if (!peek().is(';')) {
    do {
      if (ins.operands.size() >= 64) fail("too many operands");
      ins.operands.push_back(operand(f, scope, 0));
      if (peek().is('|')) {
        take();
        ins.operands.back().second = std::make_unique<Operand>(simple_operand(f, scope));
      }
    } while (accept(','));
  }
  expect(';');
  f.code.push_back(std::move(ins));
}

Operand Parser::operand(Function& f, int scope, int depth) {
  if (depth > 2) fail("operands nested too deeply");
  if (peek().is('[')) return memory_operand(f, scope);
  char close = peek().is('{') ? '}' : peek().is('(') ? ')' : '\0';
  if (!close) return simple_operand(f, scope);
  Operand o;
  o.kind = close == '}' ? Operand::vector : Operand::list;
  take();
  if (accept(close)) return o;
  do {
    if (o.elements.size() >= 1024) fail("too many elements");
    o.elements.push_back(operand(f, scope, depth + 1));
  } while (accept(','));
  expect(close);
  return o;
}

Operand Parser::number_operand(bool negative) {
  Operand o;
  const Token& t = take();
  switch (t.kind) {
    case Token::integer:
      o.kind = Operand::integer;
      o.value = static_cast<int64_t>(negative ? 0 - t.bits : t.bits);
      return o;
    case Token::f32:
      o.kind = Operand::f32;
      o.value = static_cast<int64_t>(t.bits ^ (negative ? 0x80000000u : 0));
      return o;
    case Token::f64:
      o.kind = Operand::f64;
      o.value = static_cast<int64_t>(t.bits ^ (negative ? uint64_t{1} << 63 : 0));
      return o;
    default: fail_at(t.line, "expected an operand, found \"" + std::string(t.text) + "\"");
  }
}

Operand Parser::simple_operand(Function& f, int scope) {
  (void)f;
  Operand o;
  bool negated = accept('!');
  if (peek().is('-')) {
    take();
    return number_operand(true);
  }
  if (peek().is('~')) {
    take();
    o = number_operand(false);
    o.value = ~o.value;
    return o;
  }
  if (peek().kind != Token::word) return number_operand(false);
  std::string_view word = take().text;
  o.name = word;
  o.scope = scope;
  o.negated = negated;
  if (word == "_") {
    o.kind = Operand::sink;
    return o;
  }
  if (const Variable* v = find(scope, word)) {
    o.var = v;
    o.kind = v->space == Space::reg ? Operand::reg : Operand::address;
    if (o.kind == Operand::address) {
      if (accept('+')) o.value = integer("an offset");
      else if (peek().is('-')) o.value = integer("an offset");
    } else if (peek().kind == Token::dotted) {
      fail("elements of vector registers are not supported");
    }
    return o;
  }
  if (word == "WARP_SZ") {
    o.kind = Operand::integer;
    o.value = 32;
    return o;
  }
  if (word[0] == '%') {
    o.kind = Operand::special;
    if (peek().kind == Token::dotted) {
      std::string_view part = take().text;
      o.name = std::string_view(word.data(), static_cast<size_t>(part.data() + part.size() - word.data()));
    }
    return o;
  }
  o.kind = Operand::label;  // or a function; the decoder knows
  return o;
}

Operand Parser::memory_operand(Function& f, int scope) {
  (void)f;
  Operand o;
  o.kind = Operand::memory;
  o.scope = scope;
  expect('[');
  if (peek().kind == Token::word) {
    std::string_view word = take().text;
    o.name = word;
    o.var = find(scope, word);
    if (!o.var) fail("\"" + std::string(word) + "\" is not declared");
    if (accept('+') || peek().is('-')) o.value = integer("an offset");
  } else {
    o.value = integer("an address");
  }
  if (peek().is(',')) fail("this form of address is not supported");
  expect(']');
  return o;
}

}  // namespace softcuda::ptx
