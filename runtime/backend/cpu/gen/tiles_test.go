package main

import (
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestTileEncodingsAreThoseOfTheManual compares with bytes that binutils 2.40 makes.
func TestTileEncodingsAreThoseOfTheManual(t *testing.T) {
	for want, got := range map[string][]byte{
		"c4e278494300":         loadConfig.memory(0, tileMemory{base: "BX"}),
		"c4e27849c0":           releaseTile.registers(0, 0, 0),
		"c4e27b49c0":           zeroTile.registers(0, 0, 0),
		"c4a27b4b440140":       loadTile.memory(0, tileMemory{base: "CX", index: "R8", displacement: 64}),
		"c4827a4b9c0d80000000": storeTile.memory(3, tileMemory{base: "R13", index: "R9", displacement: 128}),
		"c4e26a5cc1":           dotBF16.registers(0, 1, 2),
		"c4e26a5ec1":           dotSU.registers(0, 1, 2),
	} {
		if hex.EncodeToString(got) != want {
			t.Errorf("% x, want %s", got, want)
		}
	}
}

// disassembled returns what objdump reads, an instruction a line.
func disassembled(t *testing.T, code []byte) []string {
	t.Helper()
	objdump, err := exec.LookPath("objdump")
	if err != nil {
		t.Skip("objdump is not installed")
	}
	file := filepath.Join(t.TempDir(), "code")
	if err := os.WriteFile(file, code, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), objdump, "-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "--insn-width=12", file).CombinedOutput()
	if err != nil {
		t.Skipf("objdump cannot disassemble for amd64: %v\n%s", err, out)
	}
	var lines []string
	for _, line := range regexp.MustCompile(`(?m)^ +[0-9a-f]+:\t[0-9a-f ]+\t(.+)$`).FindAllSubmatch(out, -1) {
		lines = append(lines, strings.Join(strings.Fields(string(line[1])), " "))
	}
	if strings.Contains(strings.Join(lines, "\n"), "(bad)") && !strings.Contains(string(out), "tdpbf16ps") {
		t.Skip("this objdump does not know tiles")
	}
	return lines
}

// TestADisassemblerReadsTheTiles checks every register in every place.
func TestADisassemblerReadsTheTiles(t *testing.T) {
	var code []byte
	var want []string
	add := func(b []byte, format string, args ...any) {
		code, want = append(code, b...), append(want, fmt.Sprintf(format, args...))
	}
	add(dotBF16.registers(0, 1, 2), "tdpbf16ps tmm0,tmm1,tmm2")
	for i := range 8 {
		for _, r := range [][3]int{{i, (i + 1) % 8, (i + 2) % 8}, {(i + 3) % 8, i, (i + 1) % 8}, {i, 7 - i, i ^ 3}} {
			add(dotBF16.registers(r[0], r[1], r[2]), "tdpbf16ps tmm%d,tmm%d,tmm%d", r[0], r[1], r[2])
			add(dotSU.registers(r[0], r[1], r[2]), "tdpbsud tmm%d,tmm%d,tmm%d", r[0], r[1], r[2])
		}
		add(zeroTile.registers(i, 0, 0), "tilezero tmm%d", i)
	}
	for name, number := range generalRegisters {
		for _, displacement := range []int{0, 64, -128, 128, 2176} {
			add(loadConfig.memory(0, tileMemory{base: name, displacement: displacement}), "ldtilecfg [%s%+#x]", intelNames[number], displacement)
			if name == "SP" {
				continue // Is no index.
			}
			m := tileMemory{base: "R13", index: name, displacement: displacement}
			add(loadTile.memory(number%8, m), "tileloadd tmm%d,[r13+%s*1%+#x]", number%8, intelNames[number], displacement)
			m = tileMemory{base: name, index: "R12", displacement: displacement}
			add(storeTile.memory(number%8, m), "tilestored [%s+r12*1%+#x],tmm%d", intelNames[number], displacement, number%8)
		}
	}
	add(releaseTile.registers(0, 0, 0), "tilerelease")
	if got := disassembled(t, code); !slices.Equal(got, want) {
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("instruction %d is %s, want %s", i, got[i], want[i])
			}
		}
		t.Errorf("objdump reads %d instructions, want %d", len(got), len(want))
	}
}

// TestTheBytesOfTheAssemblyAreWhatTheirCommentsSay reads the file that ships.
func TestTheBytesOfTheAssemblyAreWhatTheirCommentsSay(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "amx_amd64.s"))
	if err != nil {
		t.Fatal(err)
	}
	var code []byte
	var want []string
	for _, line := range regexp.MustCompile(`(?m)^\t(BYTE .*) // (.+)$`).FindAllSubmatch(source, -1) {
		b, err := hex.DecodeString(regexp.MustCompile(`BYTE \$0x|; `).ReplaceAllString(string(line[1]), ""))
		if err != nil {
			t.Fatal(err)
		}
		code, want = append(code, b...), append(want, strings.ReplaceAll(strings.ToLower(string(line[2])), ", ", ","))
	}
	if len(want) < 50 {
		t.Fatalf("there are %d instructions: the test would show little", len(want))
	}
	got := disassembled(t, code)
	if !slices.Equal(got, want) {
		t.Errorf("objdump reads\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
