// The parser's own state; ast.h has what it makes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "ast.h"

namespace softcuda::ptx {

class Parser {
 public:
  explicit Parser(Ast& ast);
  void module();

 private:
  // tokens
  const Token& peek(size_t ahead = 0) const { return tokens_[at_ + ahead < tokens_.size() ? at_ + ahead : tokens_.size() - 1]; }
  const Token& take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool accept(char c);
  bool accept_dotted(std::string_view word);
  void expect(char c);
  std::string_view name(const char* what);
  int64_t integer(const char* what);
  [[noreturn]] void fail(const std::string& text) const;
  [[noreturn]] void fail_at(int line, const std::string& text) const;
  void skip_until(char c);
  void skip_block();

  // module level (parser.cpp)
  void version();
  void target();
  void declaration();
  void function(bool entry, bool external);
  void parameters(std::vector<const Variable*>& into, Function& f);
  void limits(Function& f);

  // variables (variables.cpp)
  std::vector<std::unique_ptr<Variable>> variables(Space space, bool external);
  std::unique_ptr<Variable> variable_head(Space space, bool external);
  void dimensions(Variable& v);
  void initialiser(Variable& v);
  void init_value(Variable& v, size_t& at, int depth);
  void put(Variable& v, size_t& at, uint64_t bits);

  // bodies (body.cpp)
  void body(Function& f);
  void block(Function& f, int scope, int depth);
  void statement_directive(Function& f, int scope);
  void declare(Function& f, int scope, std::vector<std::unique_ptr<Variable>> vars);
  void instruction(Function& f, int scope);
  Operand operand(Function& f, int scope, int depth);
  Operand simple_operand(Function& f, int scope);
  Operand memory_operand(Function& f, int scope);
  Operand number_operand(bool negative);
  const Variable* find(int scope, std::string_view name) const;

  Ast& ast_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  Function* function_ = nullptr;
  std::vector<std::map<std::string, const Variable*, std::less<>>> scopes_;  // of the function, by scope id
  std::map<std::string, const Variable*, std::less<>> globals_;
};

}  // namespace softcuda::ptx
