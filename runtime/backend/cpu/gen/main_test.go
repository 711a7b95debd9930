package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// TestGeneratedFilesAreCommitted fails when somebody changed the generator, or
// what it made, without running go generate.
func TestGeneratedFilesAreCommitted(t *testing.T) {
	for name, want := range generate() {
		got, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what the generator makes: run go generate ./runtime/backend/cpu", name)
		}
	}
}

// TestEncodingsAreThoseOfTheManual compares with bytes that other assemblers make.
func TestEncodingsAreThoseOfTheManual(t *testing.T) {
	tests := []struct {
		of                 opcode
		dst, first, second int
		want               [6]byte
	}{
		{dotPairs, 2, 3, 4, [6]byte{0x62, 0xf2, 0x66, 0x48, 0x52, 0xd4}},
		{narrow, 0, 0, 0, [6]byte{0x62, 0xf2, 0x7e, 0x48, 0x72, 0xc0}},
	}
	for _, test := range tests {
		if got := encode(test.of, test.dst, test.first, test.second); got != test.want {
			t.Errorf("%s %d, %d, %d is % x, want % x", test.of.name, test.dst, test.first, test.second, got, test.want)
		}
	}
}

// TestADisassemblerReadsTheEncodings checks every register in every place.
func TestADisassemblerReadsTheEncodings(t *testing.T) {
	objdump, err := exec.LookPath("objdump")
	if err != nil {
		t.Skip("objdump is not installed")
	}
	var code []byte
	var want []string
	for i := range 32 {
		for _, r := range [][3]int{{i, 0, 0}, {0, i, 0}, {0, 0, i}, {i, 31 - i, i ^ 5}} {
			dot, round := encode(dotPairs, r[0], r[1], r[2]), encode(narrow, r[0], 0, r[2])
			code = append(append(code, dot[:]...), round[:]...)
			want = append(want,
				fmt.Sprintf("vdpbf16ps zmm%d,zmm%d,zmm%d", r[0], r[1], r[2]),
				fmt.Sprintf("vcvtneps2bf16 ymm%d,zmm%d", r[0], r[2]))
		}
	}
	file := filepath.Join(t.TempDir(), "code")
	if err := os.WriteFile(file, code, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), objdump, "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", file).CombinedOutput()
	if err != nil {
		t.Skipf("objdump cannot disassemble for amd64: %v\n%s", err, out)
	}
	lines := regexp.MustCompile(`(?m)\t(v[a-z0-9]+) +(\S+)$`).FindAllSubmatch(out, -1)
	if len(lines) != len(want) {
		t.Fatalf("objdump reads %d instructions, want %d:\n%s", len(lines), len(want), out)
	}
	for i, line := range lines {
		if got := fmt.Sprintf("%s %s", line[1], line[2]); got != want[i] {
			t.Errorf("instruction %d is %s, want %s", i, got, want[i])
		}
	}
}
