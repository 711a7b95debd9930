package constrain

import "slices"

// Byte returns the token of one byte, −1 if there is none.
func (v *Vocabulary) Byte(b byte) int32 { return int32(slices.Index(v.texts, string([]byte{b}))) }
