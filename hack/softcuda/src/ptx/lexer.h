// Tokens of PTX text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace softcuda::ptx {

// SyntaxError is what the lexer, the parser and the decoder throw among themselves;
// Program::parse turns it into text.
struct SyntaxError {
  int line;
  std::string text;
};

struct Token {
  enum Kind : uint8_t {
    end,
    word,     // foo, %r1, $L__BB0_1
    dotted,   // .reg, .lo, .L2::128B; text has no leading dot
    integer,  // value in bits
    f32,      // 0f3F800000: bits are those of the float
    f64,      // 0d… or 1.5: bits are those of the double
    quote,    // "…" without the quotes
    mark,     // one character: text[0]
  };
  Kind kind = end;
  int line = 0;
  std::string_view text;
  uint64_t bits = 0;
  bool is(char c) const { return kind == mark && text[0] == c; }
};

// lex cuts the text, which must outlive the tokens; it throws SyntaxError. The last
// token is an end token.
std::vector<Token> lex(std::string_view text);

}  // namespace softcuda::ptx
