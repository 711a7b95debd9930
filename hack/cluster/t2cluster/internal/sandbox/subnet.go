package sandbox

import (
	"encoding/hex"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"strings"
)

// TakenNetworks returns the IPv4 networks that this machine has addresses in or routes to.
func TakenNetworks() ([]netip.Prefix, error) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("listing the machine's addresses: %w", err)
	}
	var taken []netip.Prefix
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is4() {
			taken = append(taken, prefix.Masked())
		}
	}
	routes, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return nil, fmt.Errorf("reading the machine's routes: %w", err)
	}
	more, err := parseRoutes(string(routes))
	if err != nil {
		return nil, err
	}
	return append(taken, more...), nil
}

// parseRoutes reads the kernel's table of IPv4 routes: a heading, then interface, destination, …, mask in hexadecimal of
// the machine's (little-endian) byte order.
func parseRoutes(text string) ([]netip.Prefix, error) {
	var routes []netip.Prefix
	first := true
	for line := range strings.Lines(text) {
		if first {
			first = false
			continue
		}
		fields := strings.Fields(line)
		const destination, mask = 1, 7
		if len(fields) <= mask {
			return nil, fmt.Errorf("route %q: not in the kernel's format", line)
		}
		address, err := parseLittleEndian(fields[destination])
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", line, err)
		}
		m, err := parseLittleEndian(fields[mask])
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", line, err)
		}
		ones := 0
		for _, b := range m {
			ones += bits.OnesCount8(b)
		}
		routes = append(routes, netip.PrefixFrom(netip.AddrFrom4(address), ones).Masked())
	}
	return routes, nil
}

func parseLittleEndian(s string) ([4]byte, error) {
	raw, err := hex.DecodeString(s)
	if err != nil {
		return [4]byte{}, err
	}
	if len(raw) != 4 {
		return [4]byte{}, fmt.Errorf("%q is not an IPv4 address", s)
	}
	return [4]byte{raw[3], raw[2], raw[1], raw[0]}, nil
}
