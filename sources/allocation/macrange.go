package allocation

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"keymill/pipeline"
	"keymill/sources"
)

// MACRange is a range of MAC addresses as 48-bit numbers, both ends included.
type MACRange struct{ First, Last uint64 }

// String returns the range as ParseMACRange reads it.
func (r MACRange) String() string {
	return sources.MACFromUint64(r.First).String() + ".." + sources.MACFromUint64(r.Last).String()
}

// ParseMACRange reads a range of addresses: "00:1b:63:10:00:00..00:1b:63:10:ff:ff",
// "00:1b:63:10:00:00/28" (an address and the number of fixed bits, as IEEE
// assigns blocks: 24 for MA-L, 28 for MA-M, 36 for MA-S) or a whole OUI,
// "00:1b:63". It must lie in one OUI.
func ParseMACRange(s string) (MACRange, error) {
	r, err := parseMACRange(strings.TrimSpace(s))
	if err != nil {
		return r, pipeline.WithHint(fmt.Errorf("bad range of MAC addresses %q: %w", s, err),
			"write it as 00:1b:63:10:00:00..00:1b:63:10:ff:ff, as 00:1b:63:10:00:00/28, or as an OUI such as 00:1b:63")
	}
	return r, nil
}

func parseMACRange(s string) (MACRange, error) {
	if first, last, ok := strings.Cut(s, ".."); ok {
		a, err := sources.ParseMAC(first)
		if err != nil {
			return MACRange{}, err
		}
		b, err := sources.ParseMAC(last)
		if err != nil {
			return MACRange{}, err
		}
		r := MACRange{a.Uint64(), b.Uint64()}
		if r.First > r.Last {
			return r, errors.New("it ends before it begins")
		}
		if r.First>>24 != r.Last>>24 {
			return r, errors.New("it spans several OUIs")
		}
		return r, nil
	}
	address, length, ok := strings.Cut(s, "/")
	bits := 24
	if ok {
		n, err := strconv.Atoi(length)
		if err != nil || n < 24 || n > 48 {
			return MACRange{}, fmt.Errorf("%q is not a number of bits from 24 to 48", length)
		}
		bits = n
	}
	m, err := sources.ParseMAC(wholeMAC(address))
	if err != nil {
		return MACRange{}, err
	}
	host := uint64(1)<<(48-bits) - 1
	v := m.Uint64()
	if v&host != 0 {
		return MACRange{}, fmt.Errorf("the address has bits beyond the first %d", bits)
	}
	return MACRange{v, v | host}, nil
}

// wholeMAC appends the three bytes that an OUI lacks.
func wholeMAC(s string) string {
	switch {
	case len(s) == 6:
		return s + "000000"
	case len(s) == 8:
		return s + strings.Repeat(s[2:3]+"00", 3)
	}
	return s
}

// check says why no product can be given addresses of the range.
func (r MACRange) check(local bool) error {
	m := sources.MACFromUint64(r.First)
	hint := "use the block that IEEE assigned to you; https://standards.ieee.org/products-programs/regauth lists whose is whose"
	switch {
	case m[0]&1 != 0:
		return pipeline.WithHint(fmt.Errorf("the addresses %s are multicast addresses", r), "%s", hint)
	case m.Local() && !local:
		return pipeline.WithHint(fmt.Errorf("the addresses %s are locally administered: others may use them too", r), "%s, or allow local addresses expressly (--local)", hint)
	}
	if owner := foreignOUI(m); owner != "" {
		return pipeline.WithHint(fmt.Errorf("the addresses %s belong to %s", r, owner), "%s", hint)
	}
	return nil
}

// foreignOUI names the owner of OUIs that get into configurations by copying
// from a virtual machine or a text book.
func foreignOUI(m sources.MAC) string {
	switch fmt.Sprintf("%x", m[:3]) {
	case "000000":
		return "Xerox; mostly they are empty or test values"
	case "00005e":
		return "IANA (RFC 9542)"
	case "acde48":
		return "IEEE's examples and keymill's trial manifests"
	case "000569", "000c29", "001c14", "005056":
		return "VMware"
	case "080027", "0a0027":
		return "VirtualBox"
	case "00155d":
		return "Hyper-V"
	case "00163e":
		return "Xen"
	}
	return ""
}
