#include "parser.h"

#include <algorithm>
#include <cctype>

namespace softcuda::ptx {

std::string_view name_of(Space space) {
  switch (space) {
    case Space::generic: return "generic";
    case Space::reg: return "reg";
    case Space::param: return "param";
    case Space::local: return "local";
    case Space::shared: return "shared";
    case Space::global: return "global";
    case Space::constant: return "const";
  }
  return "?";
}

bool Function::label(int scope, std::string_view name, size_t* index) const {
  for (; scope >= 0; scope = scope_parent[static_cast<size_t>(scope)]) {
    auto it = labels.find({scope, name});
    if (it != labels.end()) {
      *index = it->second;
      return true;
    }
  }
  return false;
}

Parser::Parser(Ast& ast) : ast_(ast), tokens_(lex(ast.text)) {}

void Parser::fail(const std::string& text) const { fail_at(peek().line, text); }
void Parser::fail_at(int line, const std::string& text) const { throw SyntaxError{line, text}; }

bool Parser::accept(char c) {
  if (!peek().is(c)) return false;
  take();
  return true;
}

bool Parser::accept_dotted(std::string_view word) {
  if (peek().kind != Token::dotted || peek().text != word) return false;
  take();
  return true;
}

void Parser::expect(char c) {
  if (accept(c)) return;
  std::string found = peek().kind == Token::end ? "the end of the text" : "\"" + std::string(peek().text) + "\"";
  fail(std::string("expected \"") + c + "\", found " + found);
}

std::string_view Parser::name(const char* what) {
  if (peek().kind != Token::word) fail(std::string("expected ") + what + ", found \"" + std::string(peek().text) + "\"");
  return take().text;
}

int64_t Parser::integer(const char* what) {
  bool negative = accept('-');
  if (peek().kind != Token::integer) fail(std::string("expected ") + what + ", a number, found \"" + std::string(peek().text) + "\"");
  auto value = static_cast<int64_t>(take().bits);
  return negative ? static_cast<int64_t>(0 - static_cast<uint64_t>(value)) : value;
}

void Parser::skip_until(char c) {
  while (!peek().is(c) && peek().kind != Token::end) take();
  expect(c);
}

void Parser::skip_block() {
  expect('{');
  for (int depth = 1; depth > 0;) {
    if (peek().kind == Token::end) fail("block without an end");
    if (peek().is('{')) depth++;
    if (peek().is('}')) depth--;
    take();
  }
}

void Parser::module() {
  version();
  target();
  while (peek().kind != Token::end) declaration();
}

void Parser::version() {
  if (!accept_dotted("version")) fail("PTX must begin with .version");
  // "8.4" is lexed as one decimal number.
  const Token& t = take();
  int major = 0, minor = 0;
  size_t dot = t.text.find('.');
  if (t.kind != Token::f64 || dot == std::string_view::npos || dot == 0 || dot > 3 || t.text.size() - dot > 3) fail(".version wants major.minor");
  for (char c : t.text.substr(0, dot)) major = major * 10 + (c - '0');
  for (char c : t.text.substr(dot + 1)) {
    if (!isdigit(static_cast<unsigned char>(c))) fail(".version wants major.minor");
    minor = minor * 10 + (c - '0');
  }
  ast_.version = major * 10 + minor;
}

void Parser::target() {
  if (!accept_dotted("target")) fail("expected .target after .version");
  do {
    std::string_view word = name("a target");
    if (word.starts_with("sm_")) {
      int sm = 0;
      size_t i = 3;
      for (; i < word.size() && i < 7 && isdigit(static_cast<unsigned char>(word[i])); i++) sm = sm * 10 + (word[i] - '0');
      if (sm == 0 || (i < word.size() && word.substr(i) != "a")) fail("unknown target \"" + std::string(word) + "\"");
      ast_.target = sm;
    } else if (word != "debug" && word != "texmode_unified" && word != "texmode_independent") {
      fail("unknown target option \"" + std::string(word) + "\"");
    }
  } while (accept(','));
  if (ast_.target == 0) fail(".target names no sm_ architecture");
  if (accept_dotted("address_size") && integer("an address size") != 64) fail("only .address_size 64 is supported");
}

void Parser::declaration() {
  bool external = false;
  for (;;) {
    if (peek().kind != Token::dotted) fail("expected a directive, found \"" + std::string(peek().text) + "\"");
    std::string_view word = take().text;
    if (word == "extern") external = true;
    else if (word == "visible" || word == "weak" || word == "common") continue;
    else if (word == "entry") return function(true, external);
    else if (word == "func") return function(false, external);
    else if (word == "file") { while (peek().kind == Token::integer || peek().kind == Token::quote || peek().is(',')) take(); return; }
    else if (word == "section") { while (!peek().is('{') && peek().kind != Token::end) take(); return skip_block(); }
    else if (word == "pragma") return skip_until(';');
    else if (word == "global" || word == "const" || word == "shared") {
      Space space = word == "global" ? Space::global : word == "const" ? Space::constant : Space::shared;
      for (auto& v : variables(space, external)) {
        auto old = globals_.find(v->name);
        if (old != globals_.end() && !old->second->external) fail_at(v->line, "\"" + v->name + "\" is declared twice");
        globals_[v->name] = v.get();
        ast_.variables.push_back(std::move(v));
      }
      return;
    } else fail("unknown directive \"." + std::string(word) + "\"");
  }
}

void Parser::parameters(std::vector<const Variable*>& into, Function& f) {
  expect('(');
  while (!accept(')')) {
    if (!into.empty()) expect(',');
    Space space = Space::param;
    if (accept_dotted("reg")) space = Space::reg;
    else if (!accept_dotted("param")) fail("expected .param");
    auto v = variable_head(space, false);
    into.push_back(v.get());
    if (space == Space::reg) {
      v->id = static_cast<int>(f.registers.size());
      f.registers.push_back(std::move(v));
    } else {
      v->id = static_cast<int>(into.size()) - 1;
      f.variables.push_back(std::move(v));
    }
  }
}

void Parser::limits(Function& f) {
  for (;;) {
    auto three = [&](unsigned out[3]) {
      for (int i = 0; i < 3; i++) {
        int64_t v = integer("a number of threads");
        if (v < 1 || v > 1024) fail("a block has 1 to 1024 threads in a direction");
        out[i] = static_cast<unsigned>(v);
        if (!accept(',')) break;
      }
    };
    unsigned d[3] = {1, 1, 1};
    if (accept_dotted("maxntid")) {
      three(d);
      f.max_threads = d[0] * d[1] * d[2];
    } else if (accept_dotted("reqntid")) {
      three(d);
      std::copy(d, d + 3, f.required_block);
      f.max_threads = d[0] * d[1] * d[2];
    } else if (accept_dotted("minnctapersm") || accept_dotted("maxnctapersm") || accept_dotted("maxnreg")) {
      integer("a limit");
    } else if (accept_dotted("noreturn")) {
    } else if (accept_dotted("pragma")) {
      skip_until(';');
    } else {
      return;
    }
  }
}

void Parser::function(bool entry, bool external) {
  auto made = std::make_unique<Function>();
  Function& f = *made;
  f.entry = entry;
  f.line = peek().line;
  if (peek().is('(')) {
    if (entry) fail("an .entry gives no results");
    parameters(f.results, f);
  }
  f.name = std::string(name("the name of a function"));
  if (peek().is('(')) parameters(f.params, f);
  limits(f);
  std::string_view key = f.name;
  auto old = ast_.function_by_name.find(key);
  if (peek().is('{')) {
    if (external) fail("an .extern function with a body");
    if (old != ast_.function_by_name.end() && old->second->defined) fail_at(f.line, "\"" + f.name + "\" is defined twice");
    f.defined = true;
    body(f);
  } else {
    accept(';');
    if (old != ast_.function_by_name.end()) return;  // declared again
  }
  if (old != ast_.function_by_name.end()) ast_.function_by_name.erase(old);
  ast_.function_by_name[key] = &f;  // key lives in f
  ast_.functions.push_back(std::move(made));
}

std::unique_ptr<Ast> parse(std::string_view text) {
  auto ast = std::make_unique<Ast>();
  ast->text = std::string(text);
  Parser(*ast).module();
  return ast;
}

}  // namespace softcuda::ptx
