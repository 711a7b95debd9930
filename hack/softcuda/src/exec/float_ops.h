// The floating-point halves of instructions whose names integers share.
#pragma once

#include "decode.h"

namespace softcuda {

// In float.cpp; each hands .f16, .bf16 and their pairs on to half.cpp.
void decode_float_add(Decoder&, ptx::Type, bool subtract);
void decode_float_mul(Decoder&, ptx::Type);
void decode_float_fma(Decoder&, ptx::Type);
void decode_float_div(Decoder&, ptx::Type);
void decode_float_extreme(Decoder&, ptx::Type, bool most);
void decode_float_sign(Decoder&, ptx::Type, bool absolute);  // neg, abs

// In half.cpp.
enum class HalfOp : uint8_t { add, sub, mul, fma, min, max, neg, abs, ex2, tanh };
void decode_half(Decoder&, ptx::Type, HalfOp);

}  // namespace softcuda
