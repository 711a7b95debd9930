#include "textflag.h"

// func enabledStates() uint32
TEXT ·enabledStates(SB), NOSPLIT, $0-4
	XORL CX, CX
	XGETBV
	MOVL AX, ret+0(FP)
	RET
