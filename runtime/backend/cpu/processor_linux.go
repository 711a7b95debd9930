package cpu

import (
	"bufio"
	"io"
	"os"
	"strings"
)

// processorModel names the processor by its maker, family, model and stepping, or is "" where
// the system does not say.
func processorModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }() // Nothing was written.
	return modelOf(f)
}

// modelOf reads the first processor of /proc/cpuinfo.
func modelOf(cpuinfo io.Reader) string {
	said := map[string]string{}
	lines := bufio.NewScanner(cpuinfo)
	for lines.Scan() && lines.Text() != "" {
		name, value, _ := strings.Cut(lines.Text(), ":")
		said[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	var model []string
	for _, name := range []string{"vendor_id", "cpu family", "model", "stepping"} {
		if said[name] == "" {
			return ""
		}
		model = append(model, said[name])
	}
	return strings.Join(append(model, said["model name"]), " ")
}
