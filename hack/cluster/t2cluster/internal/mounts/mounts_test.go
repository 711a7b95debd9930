package mounts

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

const table = `24 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 24 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
31 24 0:26 / /sys/fs/cgroup/unified rw shared:2 master:1 - cgroup2 cgroup2 rw
40 24 0:30 / /s/t2/a\040b rw - tmpfs tmpfs rw
41 40 0:31 / /s/t2/a\040b/c\134d rw - overlay overlay rw,lowerdir=/x
42 24 0:32 / /s/t2-other rw - tmpfs tmpfs rw
`

func TestParseAndBelow(t *testing.T) {
	got, err := Parse(table)
	if err != nil {
		t.Fatal(err)
	}
	want := []Mount{
		{Point: "/", Type: "ext4", Super: []string{"rw", "discard"}},
		{Point: "/sys/fs/cgroup/memory", Type: "cgroup", Super: []string{"rw", "memory"}},
		{Point: "/sys/fs/cgroup/unified", Type: "cgroup2", Super: []string{"rw"}},
		{Point: "/s/t2/a b", Type: "tmpfs", Super: []string{"rw"}},
		{Point: `/s/t2/a b/c\d`, Type: "overlay", Super: []string{"rw", "lowerdir=/x"}},
		{Point: "/s/t2-other", Type: "tmpfs", Super: []string{"rw"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{`/s/t2/a b/c\d`, "/s/t2/a b"}, Below(got, "/s/t2")); diff != "" {
		t.Errorf("below /s/t2, the upper mount first (-want +got):\n%s", diff)
	}
}

func TestParseRefusesOtherText(t *testing.T) {
	for _, text := range []string{"nonsense\n", "24 1 254:0 / / rw - \n", "24 1 - ext4 /dev/vda rw\n"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", text, got)
		}
	}
}

func TestTableHasARoot(t *testing.T) {
	got, err := Table()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range got {
		if m.Point == "/" {
			return
		}
	}
	t.Errorf("no root among %v", got)
}

func FuzzParse(f *testing.F) {
	f.Add(table)
	f.Add("24 1 254:0 / / rw -")
	f.Fuzz(func(t *testing.T, text string) {
		table, err := Parse(text)
		if err != nil && table != nil {
			t.Errorf("an error and a table: %v, %v", table, err)
		}
	})
}
