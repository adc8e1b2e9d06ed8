package sources

import (
	"errors"
	"fmt"
)

// MAC is an EUI-48.
type MAC [6]byte

// ErrNotMAC is returned by ParseMAC.
var ErrNotMAC = errors.New("not a MAC address")

// ParseMAC reads a MAC address in any usual notation: 12 hexadecimal digits,
// alone or in groups of 2, 4 or 6 parted by one kind of separator (: - . or
// space).
func ParseMAC(s string) (MAC, error) {
	var m MAC
	if len(s) < 12 || len(s) > 17 {
		return m, ErrNotMAC
	}
	group, sep := 12, byte(0)
	if len(s) > 12 {
		switch len(s) {
		case 17:
			group = 2
		case 14:
			group = 4
		case 13:
			group = 6
		default:
			return m, ErrNotMAC
		}
		sep = s[group]
		if sep != ':' && sep != '-' && sep != '.' && sep != ' ' {
			return m, ErrNotMAC
		}
	}
	digits := 0
	for i := 0; i < len(s); i++ {
		if group < 12 && i%(group+1) == group {
			if s[i] != sep {
				return m, ErrNotMAC
			}
			continue
		}
		v, ok := unhex(s[i])
		if !ok {
			return m, ErrNotMAC
		}
		m[digits/2] = m[digits/2]<<4 | v
		digits++
	}
	return m, nil
}

func unhex(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// String returns the form in which the Linux kernel prints it, and the server
// must know it: lower case with colons.
func (m MAC) String() string {
	const digits = "0123456789abcdef"
	var b [17]byte
	for i, v := range m {
		b[3*i], b[3*i+1] = digits[v>>4], digits[v&15]
		if i < 5 {
			b[3*i+2] = ':'
		}
	}
	return string(b[:])
}

// Uint64 returns the address as a 48-bit number.
func (m MAC) Uint64() uint64 {
	var v uint64
	for _, b := range m {
		v = v<<8 | uint64(b)
	}
	return v
}

// MACFromUint64 is the inverse of MAC.Uint64.
func MACFromUint64(v uint64) MAC {
	return MAC{byte(v >> 40), byte(v >> 32), byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}
}

// Local reports whether the address is locally administered (IEEE 802, U/L bit).
func (m MAC) Local() bool { return m[0]&2 != 0 }

// unusable says why no device can have the address, "" if one can.
func (m MAC) unusable() string {
	switch {
	case m == MAC{}:
		return "the MAC address is all zeros"
	case m == MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}:
		return "the MAC address is the broadcast address"
	case m[0]&1 != 0:
		return fmt.Sprintf("the MAC address is a multicast address (its first byte, %02x, is odd)", m[0])
	}
	return ""
}

// canonicalMAC reports whether s is what MAC.String returns, so that it need not
// be made again.
func canonicalMAC(s string) bool {
	if len(s) != 17 {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if i%3 == 2 {
			if c != ':' {
				return false
			}
		} else if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
