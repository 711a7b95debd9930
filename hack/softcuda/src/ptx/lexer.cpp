#include "lexer.h"

#include <bit>
#include <cctype>
#include <cstdlib>

namespace softcuda::ptx {

namespace {

bool name_start(char c) { return isalpha(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%'; }
bool name_part(char c) { return isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$'; }

class Lexer {
 public:
  explicit Lexer(std::string_view text) : text_(text) {}

  std::vector<Token> all() {
    std::vector<Token> tokens;
    tokens.reserve(text_.size() / 4 + 16);
    do tokens.push_back(next());
    while (tokens.back().kind != Token::end);
    return tokens;
  }

 private:
  char at(size_t ahead = 0) const { return pos_ + ahead < text_.size() ? text_[pos_ + ahead] : '\0'; }

  void skip_blanks() {
    while (pos_ < text_.size()) {
      char c = text_[pos_];
      if (c == '\n') {
        line_++;
        pos_++;
      } else if (c == ' ' || c == '\t' || c == '\r' || c == '\f' || c == '\v') {
        pos_++;
      } else if (c == '/' && at(1) == '/') {
        while (pos_ < text_.size() && text_[pos_] != '\n') pos_++;
      } else if (c == '/' && at(1) == '*') {
        int start = line_;
        pos_ += 2;
        while (!(at() == '*' && at(1) == '/')) {
          if (pos_ >= text_.size()) throw SyntaxError{start, "comment without an end"};
          if (text_[pos_++] == '\n') line_++;
        }
        pos_ += 2;
      } else {
        return;
      }
    }
  }

  Token make(Token::Kind kind, size_t from, uint64_t bits = 0) const {
    return {kind, line_, text_.substr(from, pos_ - from), bits};
  }

  Token next() {
    skip_blanks();
    size_t from = pos_;
    if (pos_ >= text_.size()) return make(Token::end, from);
    char c = at();
    if (c == '.' && isdigit(static_cast<unsigned char>(at(1))) && last_was_blank()) return number();
    if (c == '.' && (name_part(at(1)))) {
      pos_++;
      from = pos_;
      while (name_part(at()) || (at() == ':' && at(1) == ':' && name_part(at(2)))) pos_ += at() == ':' ? 2 : 1;
      return make(Token::dotted, from);
    }
    if (name_start(c)) {
      pos_++;
      while (name_part(at())) pos_++;
      return make(Token::word, from);
    }
    if (isdigit(static_cast<unsigned char>(c))) return number();
    if (c == '"') return quoted();
    if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) >= 0x7f) throw SyntaxError{line_, "a byte that is not PTX text"};
    pos_++;
    return make(Token::mark, from);
  }

  // ".5" is a number only where no word touches it.
  bool last_was_blank() const { return pos_ == 0 || !name_part(text_[pos_ - 1]); }

  Token quoted() {
    size_t from = ++pos_;
    while (at() != '"') {
      if (pos_ >= text_.size() || at() == '\n') throw SyntaxError{line_, "string without an end"};
      pos_ += at() == '\\' && pos_ + 1 < text_.size() ? 2 : 1;
    }
    Token t = make(Token::quote, from);
    pos_++;
    return t;
  }

  uint64_t digits(unsigned base) {
    uint64_t value = 0;
    size_t from = pos_;
    for (;; pos_++) {
      char c = at();
      unsigned d;
      if (c >= '0' && c <= '9') d = static_cast<unsigned>(c - '0');
      else if (c >= 'a' && c <= 'f') d = static_cast<unsigned>(c - 'a' + 10);
      else if (c >= 'A' && c <= 'F') d = static_cast<unsigned>(c - 'A' + 10);
      else break;
      if (d >= base) break;
      if (value > (~uint64_t{0} - d) / base) throw SyntaxError{line_, "number does not fit 64 bits"};
      value = value * base + d;
    }
    if (pos_ == from) throw SyntaxError{line_, "number without digits"};
    return value;
  }

  Token exact_float(size_t from, int hex_digits) {
    pos_ += 2;
    size_t start = pos_;
    uint64_t bits = digits(16);
    if (pos_ - start != static_cast<size_t>(hex_digits)) throw SyntaxError{line_, "0f takes 8 hexadecimal digits and 0d takes 16"};
    return make(hex_digits == 8 ? Token::f32 : Token::f64, from, bits);
  }

  Token number() {
    size_t from = pos_;
    if (at() == '0' && (at(1) == 'f' || at(1) == 'F')) return exact_float(from, 8);
    if (at() == '0' && (at(1) == 'd' || at(1) == 'D')) return exact_float(from, 16);
    uint64_t value;
    if (at() == '0' && (at(1) == 'x' || at(1) == 'X')) {
      pos_ += 2;
      value = digits(16);
    } else if (at() == '0' && (at(1) == 'b' || at(1) == 'B')) {
      pos_ += 2;
      value = digits(2);
    } else {
      size_t p = pos_;
      while (p < text_.size() && isdigit(static_cast<unsigned char>(text_[p]))) p++;
      bool real = p < text_.size() && (text_[p] == '.' || text_[p] == 'e' || text_[p] == 'E');
      if (real) return decimal(from);
      value = digits(at() == '0' ? 8 : 10);
    }
    Token t = make(Token::integer, from, value);
    if (at() == 'U') pos_++;
    if (name_part(at())) throw SyntaxError{line_, "number runs into a word"};
    return t;
  }

  Token decimal(size_t from) {
    while (isdigit(static_cast<unsigned char>(at()))) pos_++;
    if (at() == '.') pos_++;
    while (isdigit(static_cast<unsigned char>(at()))) pos_++;
    if (at() == 'e' || at() == 'E') {
      pos_++;
      if (at() == '+' || at() == '-') pos_++;
      while (isdigit(static_cast<unsigned char>(at()))) pos_++;
    }
    std::string copy(text_.substr(from, pos_ - from));
    return make(Token::f64, from, std::bit_cast<uint64_t>(strtod(copy.c_str(), nullptr)));
  }

  std::string_view text_;
  size_t pos_ = 0;
  int line_ = 1;
};

}  // namespace

std::vector<Token> lex(std::string_view text) { return Lexer(text).all(); }

}  // namespace softcuda::ptx
