// PTX's fundamental types and what they imply.
#pragma once

#include <cstdint>
#include <string_view>

namespace softcuda::ptx {

enum class Type : uint8_t {
  none, pred,
  b8, b16, b32, b64,
  u8, u16, u32, u64,
  s8, s16, s32, s64,
  f16, bf16, tf32, f32, f64,
  f16x2, bf16x2, u16x2, s16x2,
};

// type_named gives Type::none for a name (without its dot) that is no type.
Type type_named(std::string_view);
std::string_view name_of(Type);

// bytes_of gives the size in memory; 0 for pred and none.
constexpr unsigned bytes_of(Type t) {
  switch (t) {
    case Type::b8: case Type::u8: case Type::s8: return 1;
    case Type::b16: case Type::u16: case Type::s16: case Type::f16: case Type::bf16: return 2;
    case Type::b32: case Type::u32: case Type::s32: case Type::f32: case Type::tf32:
    case Type::f16x2: case Type::bf16x2: case Type::u16x2: case Type::s16x2: return 4;
    case Type::b64: case Type::u64: case Type::s64: case Type::f64: return 8;
    default: return 0;
  }
}

constexpr bool is_signed(Type t) { return t == Type::s8 || t == Type::s16 || t == Type::s32 || t == Type::s64; }
constexpr bool is_unsigned(Type t) { return t == Type::u8 || t == Type::u16 || t == Type::u32 || t == Type::u64; }
constexpr bool is_bits(Type t) { return t == Type::b8 || t == Type::b16 || t == Type::b32 || t == Type::b64; }
constexpr bool is_integer(Type t) { return is_signed(t) || is_unsigned(t) || is_bits(t); }
constexpr bool is_float(Type t) {
  return t == Type::f16 || t == Type::bf16 || t == Type::tf32 || t == Type::f32 || t == Type::f64;
}
constexpr bool is_packed(Type t) { return t == Type::f16x2 || t == Type::bf16x2 || t == Type::u16x2 || t == Type::s16x2; }

}  // namespace softcuda::ptx
