// Declarations of variables and their initial values.
#include <bit>
#include <cstring>

#include "parser.h"

namespace softcuda::ptx {

namespace {
constexpr uint64_t kMaxBytes = uint64_t{1} << 32;
constexpr int64_t kMaxRegisters = 100000;
}  // namespace

// variable_head reads everything between the state space and an initialiser.
std::unique_ptr<Variable> Parser::variable_head(Space space, bool external) {
  auto v = std::make_unique<Variable>();
  v->space = space;
  v->external = external;
  v->line = peek().line;
  for (;;) {
    if (peek().kind != Token::dotted) break;
    std::string_view word = take().text;
    if (word == "align") {
      int64_t n = integer("an alignment");
      if (n < 1 || n > 4096 || !std::has_single_bit(static_cast<uint64_t>(n))) fail("alignment must be a power of two up to 4096");
      v->align = static_cast<unsigned>(n);
    } else if (word == "v2") {
      v->vector = 2;
    } else if (word == "v4") {
      v->vector = 4;
    } else if (word == "ptr") {  // .ptr .global .align 16
      if (peek().kind == Token::dotted && (peek().text == "global" || peek().text == "shared" || peek().text == "const" || peek().text == "local")) take();
      if (accept_dotted("align")) integer("an alignment");
    } else if (word == "managed" || word == "attribute") {
      fail("managed variables are not supported");
    } else if (v->type == Type::none) {
      v->type = type_named(word);
      if (v->type == Type::none) fail("unknown type \"." + std::string(word) + "\"");
    } else {
      fail("unexpected \"." + std::string(word) + "\" in a declaration");
    }
  }
  if (v->type == Type::none) fail("declaration without a type");
  if (space != Space::reg && v->type == Type::pred) fail("a predicate lives in registers only");
  v->name = std::string(name("the name of a variable"));
  dimensions(*v);
  if (v->align < bytes_of(v->type) * v->vector) {
    if (v->align == 0) v->align = bytes_of(v->type) * v->vector;
  }
  return v;
}

void Parser::dimensions(Variable& v) {
  bool open = false;
  while (accept('[')) {
    v.is_array = true;
    if (accept(']')) {
      if (open) fail("only the first dimension may be left open");
      open = true;
      continue;
    }
    int64_t n = integer("a dimension");
    expect(']');
    if (n < 0 || static_cast<uint64_t>(n) > kMaxBytes) fail("array too large");
    v.count *= static_cast<uint64_t>(n);
    if (v.bytes() > kMaxBytes) fail("array too large");
  }
  if (open) {
    // The initialiser, or for extern .shared the launch, gives the length.
    v.count = 0;
  }
}

std::vector<std::unique_ptr<Variable>> Parser::variables(Space space, bool external) {
  std::vector<std::unique_ptr<Variable>> all;
  auto first = variable_head(space, external);
  for (;;) {
    Variable& v = *first;
    std::unique_ptr<Variable> next;
    if (peek().is('<')) {  // %r<100>
      take();
      int64_t n = integer("a number of registers");
      expect('>');
      if (n < 0 || n > kMaxRegisters) fail("too many registers in one declaration");
      for (int64_t i = 0; i < n; i++) {
        auto copy = std::make_unique<Variable>();
        copy->name = v.name + std::to_string(i);
        copy->space = space;
        copy->type = v.type;
        copy->vector = v.vector;
        copy->line = v.line;
        all.push_back(std::move(copy));
      }
    } else {
      if (accept('=')) initialiser(v);
      all.push_back(nullptr);
    }
    bool more = accept(',');
    if (more) {
      next = std::make_unique<Variable>();
      next->space = space;
      next->external = external;
      next->line = peek().line;
      next->type = v.type;
      next->vector = v.vector;
      next->align = v.align;
      next->name = std::string(name("the name of a variable"));
      dimensions(*next);
    }
    if (!all.empty() && !all.back()) all.back() = std::move(first);
    if (!more) break;
    first = std::move(next);
  }
  expect(';');
  return all;
}

void Parser::initialiser(Variable& v) {
  if (v.space != Space::global && v.space != Space::constant) fail("only .global and .const variables have initial values");
  size_t at = 0;
  init_value(v, at, 0);
  unsigned element = bytes_of(v.type) * v.vector;
  if (v.count == 0) v.count = (at + element - 1) / element;
  if (at > v.bytes()) fail("more initial values than \"" + v.name + "\" holds");
}

void Parser::put(Variable& v, size_t& at, uint64_t bits) {
  unsigned n = bytes_of(v.type);
  if (v.count != 0 && at + n > v.bytes()) fail("more initial values than \"" + v.name + "\" holds");
  if (at > kMaxBytes / 16) fail("initial value too long");
  if (v.init.size() < at + n) v.init.resize(at + n);
  memcpy(v.init.data() + at, &bits, n);
  at += n;
}

void Parser::init_value(Variable& v, size_t& at, int depth) {
  if (depth > 8) fail("initial values nested too deeply");
  if (accept('{')) {
    if (!accept('}')) {
      do init_value(v, at, depth + 1);
      while (accept(','));
      expect('}');
    }
    return;
  }
  const Token& t = peek();
  if (t.kind == Token::word) {  // an address: name, name+4, generic(name)
    bool wrapped = t.text == "generic" && peek(1).is('(');
    if (wrapped) take(), take();
    auto it = globals_.find(name("a variable"));
    if (it == globals_.end()) fail("initial value names no variable before it");
    int64_t offset = 0;
    if (accept('+')) offset = integer("an offset");
    if (wrapped) expect(')');
    if (bytes_of(v.type) != 8) fail("an address wants a 64-bit element");
    v.patches.push_back({at, it->second, offset});
    return put(v, at, 0);
  }
  bool negative = accept('-');
  const Token& n = take();
  uint64_t bits = n.bits;
  if (n.kind == Token::f32 || n.kind == Token::f64) {
    double d = n.kind == Token::f64 ? std::bit_cast<double>(bits) : static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bits)));
    if (negative) d = -d;
    if (v.type == Type::f32) bits = n.kind == Token::f32 && !negative ? bits : std::bit_cast<uint32_t>(static_cast<float>(d));
    else if (v.type == Type::f64) bits = std::bit_cast<uint64_t>(d);
    else fail("a floating-point value for a variable that is not .f32 or .f64");
  } else if (n.kind == Token::integer) {
    if (negative) bits = 0 - bits;
    if (v.type == Type::f32) bits = std::bit_cast<uint32_t>(static_cast<float>(static_cast<int64_t>(bits)));
    if (v.type == Type::f64) bits = std::bit_cast<uint64_t>(static_cast<double>(static_cast<int64_t>(bits)));
  } else {
    fail("expected an initial value");
  }
  put(v, at, bits);
}

}  // namespace softcuda::ptx
