package sources

import (
	"fmt"
	"strings"
	"unicode"
)

// AttrMAC and AttrSerial are the attributes that most manifests have and whose
// headers are guessed.
const (
	AttrMAC    = "mac"
	AttrSerial = "serial"
)

// The columns that FailuresWriter adds; a manifest's columns with the prefix
// are ignored.
const (
	ownPrefix = "keymill_"
	ownState  = "keymill_state"
	ownReason = "keymill_reason"
	ownLot    = "keymill_lot"
	ownRow    = "keymill_row"
)

// fold makes header texts comparable: case and spaces do not count.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return unicode.ToLower(r)
	}, s)
}

// guess returns the attribute that a header most likely means: mac or serial
// for what manifests usually call them, else the header made safe.
func guess(header string) string {
	letters := strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, header)
	switch letters {
	case "mac", "macaddress", "macadresse", "macaddr", "macadr", "macid", "macnr", "macno",
		"adressemac", "direccionmac", "direcciónmac", "indirizzomac", "macadres", "macadress",
		"ethernetmac", "ethmac", "ethernetaddress", "hwaddr", "hwaddress", "hardwareaddress":
		return AttrMAC
	case "sn", "snr", "serial", "serialno", "serialnr", "serialnum", "serialnumber", "ser", "serno", "sernr",
		"seriennummer", "seriennr", "serienummer", "serienr", "serienumber", "numérodesérie", "numerodeserie",
		"nºdeserie", "númerodeserie", "numerodiserie", "deviceserial", "deviceserialnumber":
		return AttrSerial
	}
	return safeName(header)
}

// safeName turns a header into an attribute name: lower case, everything but
// letters and digits one underscore. It is empty for a header without any.
func safeName(header string) string {
	var b strings.Builder
	gap := false
	for _, r := range strings.ToLower(header) {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			gap = true
			continue
		}
		if gap && b.Len() > 0 {
			b.WriteByte('_')
		}
		gap = false
		b.WriteRune(r)
	}
	return b.String()
}

// badName says why the server or keymill cannot take an attribute's name. The
// inventory skips attributes called status, names with . or $ are trouble in
// the server's store.
func badName(name, header string) (what, remedy string) {
	rename := func(to string) string {
		return fmt.Sprintf("map the column to another name in manifest.columns, such as {%s: %q}", to, header)
	}
	switch {
	case strings.EqualFold(name, "status"):
		return "an attribute cannot be called status: the server's inventory skips it", rename("device_status")
	case strings.ContainsAny(name, ".$"):
		return fmt.Sprintf("the attribute's name %q has a . or $, which the server cannot store", name), rename(safeName(name))
	case strings.HasPrefix(strings.ToLower(name), ownPrefix):
		return fmt.Sprintf("the attribute's name %q begins with %s, which is kept for keymill's own columns", name, ownPrefix), rename(safeName(name[len(ownPrefix):]))
	case strings.TrimSpace(name) != name || strings.IndexFunc(name, unprintable) >= 0 || strings.Contains(name, "\uFFFD"):
		return fmt.Sprintf("the attribute's name %q has spaces at its ends or characters that cannot be printed", name), rename(safeName(name))
	case safeName(name) == "":
		return fmt.Sprintf("the attribute's name %q has no letter or digit", name), rename("note")
	}
	return "", ""
}

// CheckAttribute says why an attribute cannot have this name, "" if it can.
func CheckAttribute(name string) string {
	what, _ := badName(name, name)
	return what
}

// CheckValue says why no device can have the value for an attribute, and what to
// do about it; what is empty if one can. identity says that it belongs to the
// identity.
func CheckValue(attribute, value string, identity bool) (what, remedy string) {
	if kind := holdsKey(value); kind != "" {
		return "the value is " + kind, keyRemedy
	}
	if value == "" {
		if identity {
			return "the value is missing", "give one"
		}
		return "", ""
	}
	if f := textFlaw(value, identity); f != nil && !f.warning {
		return f.what, f.remedy
	}
	if isMACName(attribute) {
		m, err := ParseMAC(value)
		if err != nil {
			return notMAC.what, notMAC.remedy
		}
		if what := m.unusable(); what != "" {
			return what, "find out the device's own address"
		}
	}
	return "", ""
}

// keyName says why an attribute of this name cannot belong to an identity.
func keyName(name string) string {
	switch strings.ReplaceAll(safeName(name), "_", "") {
	case "key", "pubkey", "publickey", "privkey", "privatekey", "devicekey", "cert", "certificate", "sshkey", "fingerprint", "keyfingerprint":
		return fmt.Sprintf("the attribute %s cannot belong to the identity: keys change, identities never do", name)
	}
	return ""
}

// isMACName reports whether an attribute holds MAC addresses by its name: mac,
// wifi_mac, macaddr2, btmac, eth0mac.
func isMACName(attr string) bool {
	parts := strings.Split(safeName(attr), "_")
	is := false
	for _, part := range parts {
		if isMACWord(part) {
			is = true
		}
		switch part {
		case "count", "num", "qty", "quantity", "os", "vendor", "manufacturer", "prefix", "oui", "filter", "filtering", "type", "mode", "label", "status", "source", "crc", "checksum", "note", "notes", "remark":
			return false
		}
	}
	return is || len(parts) == 2 && isMACWord(strings.Join(parts, ""))
}

// isMACWord reports whether a word in lower case says MAC address, perhaps with
// a number and the interface that has it.
func isMACWord(word string) bool {
	word = strings.Trim(word, "0123456789")
	for _, tail := range []string{"addresses", "address", "addrs", "addr", "adressen", "adresse", "adres", "adr", "ids", "id", "nr", "no", "s"} { //nolint:misspell // adres is Dutch
		if rest, ok := strings.CutSuffix(word, tail); ok && rest != "" {
			if tail[0] == 'a' && (rest == "hw" || rest == "hardware" || rest == "bd" || rest == "ethernet") {
				return true
			}
			word = rest
			break
		}
	}
	of, ok := strings.CutSuffix(word, "mac")
	if !ok {
		return false
	}
	if i := strings.IndexAny(of, "0123456789"); i >= 0 {
		of = of[:i]
	}
	switch of {
	case "", "eth", "ether", "ethernet", "lan", "wlan", "wifi", "wl", "wan", "wwan", "bt", "ble", "bluetooth", "usb", "en", "enp", "eno", "net", "nic", "port",
		"base", "board", "device", "dev", "host", "gw", "ap", "sta", "radio", "zigbee", "thread", "lora", "mesh", "phy", "primary", "secondary", "main", "modem",
		"cpu", "bmc", "ipmi", "sys", "chip", "hw", "my", "unit", "product":
		return true
	}
	return false
}
