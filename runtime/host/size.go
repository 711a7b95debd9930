package host

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes that people write: 1073741824, 1Gi, 1.5GiB or 500M. It is a flag's
// value.
type Size int64

// units are those of Kubernetes' quantities, which the API has, too.
var units = map[string]float64{
	"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
}

// ParseSize reads a size; it is not negative.
func ParseSize(text string) (Size, error) {
	number := strings.TrimRight(text, "kKMGTiB")
	value, err := strconv.ParseFloat(number, 64)
	unit, known := units[strings.TrimSuffix(text[len(number):], "B")]
	if err != nil || !known || value < 0 || math.IsNaN(value) || value*unit >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is no size: write bytes, or a number with Ki, Mi, Gi or Ti, or with k, M, G or T", text)
	}
	return Size(value * unit), nil
}

// Set implements pflag.Value.
func (s *Size) Set(text string) (err error) {
	*s, err = ParseSize(text)
	return err
}

// Type implements pflag.Value.
func (*Size) Type() string { return "size" }

// String writes the size in the largest binary unit that leaves it above one: "1.5 GiB". Of
// nothing a flag shows nothing.
func (s *Size) String() string {
	if *s == 0 {
		return "0"
	}
	return SizeText(int64(*s))
}

// SizeText writes a number of bytes in the largest unit that leaves it above one.
func SizeText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, units := float64(n)/unit, "KMGT"
	for value >= unit && len(units) > 1 {
		value /= unit
		units = units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, units[0])
}
