#include "type.h"

#include <iterator>

namespace softcuda::ptx {

namespace {
constexpr struct {
  std::string_view name;
  Type type;
} kTypes[] = {
    {"pred", Type::pred}, {"b8", Type::b8}, {"b16", Type::b16}, {"b32", Type::b32}, {"b64", Type::b64},
    {"u8", Type::u8}, {"u16", Type::u16}, {"u32", Type::u32}, {"u64", Type::u64}, {"s8", Type::s8},
    {"s16", Type::s16}, {"s32", Type::s32}, {"s64", Type::s64}, {"f16", Type::f16}, {"bf16", Type::bf16},
    {"tf32", Type::tf32}, {"f32", Type::f32}, {"f64", Type::f64}, {"f16x2", Type::f16x2},
    {"bf16x2", Type::bf16x2}, {"u16x2", Type::u16x2}, {"s16x2", Type::s16x2},
};
}  // namespace

Type type_named(std::string_view name) {
  for (auto& t : kTypes)
    if (t.name == name) return t.type;
  return Type::none;
}

std::string_view name_of(Type type) {
  for (auto& t : kTypes)
    if (t.type == type) return t.name;
  return "none";
}

}  // namespace softcuda::ptx
