package host

import (
	"strings"
	"testing"
	"testing/fstest"
)

const (
	meminfo = "MemTotal:       16384 kB\nMemFree: 1 kB\n"
	mounts2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 none rw,nsdelegate\n"
	mounts1 = "31 23 0:27 / /sys/fs/cgroup/cpu rw - cgroup none rw,cpu\n" +
		"32 23 0:28 / /sys/fs/cgroup/memory rw shared:5 - cgroup none rw,memory\n"
)

func TestTheSmallestLimitCounts(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  Limit
	}{
		"nothing is known": {nil, Limit{Source: "not known"}},
		"no group":         {map[string]string{"proc/meminfo": meminfo}, Limit{Bytes: 16 << 20, Source: "the machine's memory"}},
		"the second version": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/kubepods/pod1/c1\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/kubepods/pod1/c1/memory.max": "8388608\n", "sys/fs/cgroup/kubepods/pod1/memory.max": "max\n",
		}, Limit{Bytes: 8 << 20, Source: "the limit in /sys/fs/cgroup/kubepods/pod1/c1/memory.max", Own: true}},
		"an ancestor's is smaller": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/kubepods/pod1/c1\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/kubepods/pod1/c1/memory.max": "8388608\n", "sys/fs/cgroup/kubepods/memory.max": "4194304\n",
		}, Limit{Bytes: 4 << 20, Source: "the limit in /sys/fs/cgroup/kubepods/memory.max", Own: true}},
		"a namespace of its own": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mounts2, "sys/fs/cgroup/memory.max": "8388608",
		}, Limit{Bytes: 8 << 20, Source: "the limit in /sys/fs/cgroup/memory.max", Own: true}},
		"outside of the namespace": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/../other\n", "proc/self/mountinfo": mounts2, "sys/fs/cgroup/memory.max": "8388608",
		}, Limit{Bytes: 8 << 20, Source: "the limit in /sys/fs/cgroup/memory.max", Own: true}},
		"more than the machine has": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a\n", "proc/self/mountinfo": mounts2, "sys/fs/cgroup/a/memory.max": "99999999999",
		}, Limit{Bytes: 16 << 20, Source: "the machine's memory"}},
		"the first version": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "5:cpu,cpuacct:/docker/c1\n4:memory:/docker/c1\n0::/docker/c1\n", "proc/self/mountinfo": mounts1,
			"sys/fs/cgroup/memory/docker/c1/memory.limit_in_bytes": "2097152\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
		}, Limit{Bytes: 2 << 20, Source: "the limit in /sys/fs/cgroup/memory/docker/c1/memory.limit_in_bytes", Own: true}},
		"a part of the first version": {map[string]string{
			"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/docker/c1/inner\n",
			"proc/self/mountinfo":                                strings.ReplaceAll(mounts1, "0:28 / ", "0:28 /docker/c1 "),
			"sys/fs/cgroup/memory/memory.limit_in_bytes":         "4194304\n",
			"sys/fs/cgroup/memory/inner/memory.limit_in_bytes":   "9223372036854771712\n",
			"sys/fs/cgroup/memory/docker/memory.limit_in_bytes":  "1\n",
			"sys/fs/cgroup/memory/docker2/memory.limit_in_bytes": "1\n",
		}, Limit{Bytes: 4 << 20, Source: "the limit in /sys/fs/cgroup/memory/memory.limit_in_bytes", Own: true}},
		"lines that make no sense": {map[string]string{
			"proc/meminfo": "MemTotal: many\n", "proc/self/cgroup": "x\n0::\n", "proc/self/mountinfo": "1 - cgroup2\n" + mounts2, "sys/fs/cgroup/memory.max": "-5",
		}, Limit{Source: "not known"}},
	} {
		t.Run(name, func(t *testing.T) {
			files := fstest.MapFS{}
			for name, text := range c.files {
				files[name] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := memoryLimit(files); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
	if l := MemoryLimit(); l.Bytes <= 0 || l.Source == "" {
		t.Errorf("here: %+v", l)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1024": 1024, "1Ki": 1 << 10, "1.5GiB": 3 << 29, "500M": 500e6, "2T": 2e12, "1e3": 1000, "7B": 7,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q is %d (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "Gi", "-1", "1Mi2", "1 Gi", "NaN", "Inf", "1e300Ti", "1iG", "9223372036854775808", "1BB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 3 << 29: "1.5 GiB", 5 << 50: "5120.0 TiB"} {
		if got := SizeText(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
