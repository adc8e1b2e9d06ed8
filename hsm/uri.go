package hsm

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// URI is a PKCS#11 URI (RFC 7512). Empty fields match anything. Slots are not
// among them: their numbers change, so that a slot-id is refused.
type URI struct {
	Token        string // CK_TOKEN_INFO.label
	Manufacturer string
	Serial       string
	Model        string

	LibraryManufacturer string
	LibraryDescription  string
	LibraryVersion      string // "2.6"

	Object string // CKA_LABEL
	ID     []byte // CKA_ID
	Type   string // private, public, cert, secret-key, data

	ModulePath string
	ModuleName string
	PINSource  string
	PINValue   string // secret: String doesn't show it. Go can't wipe strings: prefer PINSource.
	// InitArgs is the string that NSS wants in CK_C_INITIALIZE_ARGS.pReserved:
	// our own query attribute x-init-args.
	InitArgs string
}

// field returns where the named attribute is kept, nil for unknown names.
func (u *URI) field(name string, query bool) *string {
	if query {
		switch name {
		case "module-path":
			return &u.ModulePath
		case "module-name":
			return &u.ModuleName
		case "pin-source":
			return &u.PINSource
		case "pin-value":
			return &u.PINValue
		case "x-init-args":
			return &u.InitArgs
		}
		return nil
	}
	switch name {
	case "token":
		return &u.Token
	case "manufacturer":
		return &u.Manufacturer
	case "serial":
		return &u.Serial
	case "model":
		return &u.Model
	case "library-manufacturer":
		return &u.LibraryManufacturer
	case "library-description":
		return &u.LibraryDescription
	case "library-version":
		return &u.LibraryVersion
	case "object":
		return &u.Object
	case "type":
		return &u.Type
	}
	return nil
}

var ( // in the order in which URIs are written; never changed
	pathNames = []string{"library-manufacturer", "library-description", "library-version",
		"manufacturer", "model", "serial", "token", "object", "type"}
	queryNames = []string{"module-path", "module-name", "x-init-args", "pin-source", "pin-value"}
)

// ParseURI reads a PKCS#11 URI. Attributes that it doesn't know are refused: one
// that was ignored could select another key than was meant.
func ParseURI(s string) (*URI, error) {
	rest, ok := strings.CutPrefix(s, "pkcs11:")
	if !ok {
		return nil, fmt.Errorf("a PKCS#11 URI starts with %q", "pkcs11:")
	}
	path, query, _ := strings.Cut(rest, "?")
	u := &URI{}
	if err := u.parse(path, ";", false); err != nil {
		return nil, err
	}
	if err := u.parse(query, "&", true); err != nil {
		return nil, err
	}
	switch {
	case u.PINSource != "" && u.PINValue != "":
		return nil, fmt.Errorf("PKCS#11 URI: pin-source and pin-value exclude each other (RFC 7512, section 2.4)")
	case u.ModulePath != "" && u.ModuleName != "" && !isDir(u.ModulePath):
		return nil, fmt.Errorf("PKCS#11 URI: module-name goes with a module-path that is a directory")
	}
	return u, nil
}

func (u *URI) parse(part, separator string, query bool) error {
	if part == "" {
		return nil
	}
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(part, separator) {
		name, raw, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("PKCS#11 URI: the attribute %.20q has no value", name)
		}
		if seen[name] {
			return fmt.Errorf("PKCS#11 URI: the attribute %q stands twice", name)
		}
		seen[name] = true
		value, err := unescape(raw, query)
		if err != nil {
			return fmt.Errorf("PKCS#11 URI: the attribute %q: %w", name, err)
		}
		if err := u.set(name, value, query); err != nil {
			return err
		}
	}
	return nil
}

func (u *URI) set(name, value string, query bool) error {
	field := u.field(name, query)
	switch {
	case field != nil:
		*field = value
	case name == "id" && !query:
		u.ID = []byte(value)
	case strings.HasPrefix(name, "slot-"):
		return fmt.Errorf("PKCS#11 URI: %s is refused, slots are renumbered: name the token by token or serial", name)
	default:
		return fmt.Errorf("PKCS#11 URI: unknown attribute %q: known are %s; after the question mark %s",
			name, "id "+strings.Join(pathNames, " "), strings.Join(queryNames, " "))
	}
	if name == "type" && !strings.Contains(" private public cert secret-key data ", " "+value+" ") {
		return fmt.Errorf("PKCS#11 URI: unknown type %q", value)
	}
	return nil
}

// allowed are the characters besides letters and digits that may stand for
// themselves: unreserved and pk11-res-avail of RFC 7512, section 2.3.
const (
	allowedInPath  = "-._~:[]@!$'()*+,=&"
	allowedInQuery = "-._~:[]@!$'()*+,=/?|"
)

func isPlain(c byte, query bool) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	case query:
		return strings.IndexByte(allowedInQuery, c) >= 0
	}
	return strings.IndexByte(allowedInPath, c) >= 0
}

func unescape(s string, query bool) (string, error) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%':
			if i+2 >= len(s) || unhex(s[i+1]) < 0 || unhex(s[i+2]) < 0 {
				return "", fmt.Errorf("bad percent-encoding")
			}
			out = append(out, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
			i += 2
		case isPlain(c, query):
			out = append(out, c)
		default:
			if c < utf8.RuneSelf {
				return "", fmt.Errorf("the character %q must be written as %%%02X", c, c)
			}
			char, size := utf8.DecodeRuneInString(s[i:])
			if char == utf8.RuneError {
				return "", fmt.Errorf("the byte %02X must be written as %%%02X", c, c)
			}
			return "", fmt.Errorf("the character %q must be written as %s", char, strings.ToUpper(url.PathEscape(s[i:i+size])))
		}
	}
	return string(out), nil
}

func unhex(c byte) int { return strings.IndexByte("0123456789abcdef", c|0x20*(c>>6&1)) }

func escape(b *strings.Builder, s string, query bool) {
	for i := range len(s) {
		if isPlain(s[i], query) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(b, "%%%02X", s[i])
		}
	}
}

// String returns the URI with "REDACTED" for the PIN.
func (u *URI) String() string {
	shown := *u
	if shown.PINValue != "" {
		shown.PINValue = "REDACTED"
	}
	return shown.withPIN()
}

// withPIN returns the URI with everything in it.
func (u *URI) withPIN() string {
	var b strings.Builder
	b.WriteString("pkcs11:")
	separator := ""
	write := func(name, value string, query bool, next string) {
		if value == "" {
			return
		}
		b.WriteString(separator + name + "=")
		escape(&b, value, query)
		separator = next
	}
	for _, name := range pathNames {
		write(name, *u.field(name, false), false, ";")
	}
	if len(u.ID) > 0 {
		b.WriteString(separator + "id=")
		for _, c := range u.ID { // ids are binary: RFC 7512 recommends to escape all of it
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	separator = "?"
	for _, name := range queryNames {
		write(name, *u.field(name, true), true, "&")
	}
	return b.String()
}

// moduleDirs are where distributions keep PKCS#11 modules.
const moduleDirs = "/usr/lib/*/pkcs11 /usr/lib/pkcs11 /usr/lib64/pkcs11 /usr/lib/*/softhsm /usr/lib/softhsm /usr/lib/*"

// module returns the path of the module's file.
func (u *URI) module() (string, error) {
	if u.ModuleName == "" {
		if u.ModulePath == "" {
			return "", refused("add ?module-path=/usr/lib/softhsm/libsofthsm2.so or the path of your vendor's module",
				"the URI %s names no PKCS#11 module", u)
		}
		if _, err := os.Stat(u.ModulePath); err != nil {
			return "", &RefusedError{Err: fmt.Errorf("PKCS#11 module: %w", err),
				Hint: "install the vendor's module, or correct module-path in the URI"}
		}
		return u.ModulePath, nil
	}
	dirs := moduleDirs
	if u.ModulePath != "" {
		dirs = u.ModulePath
	}
	for dir := range strings.FieldsSeq(dirs) {
		for _, prefix := range []string{"", "lib"} {
			if found, _ := filepath.Glob(filepath.Join(dir, prefix+u.ModuleName+".so")); len(found) > 0 {
				return found[0], nil
			}
		}
	}
	return "", refused("name its file by module-path", "no PKCS#11 module %q in %s", u.ModuleName, dirs)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// Complete returns uri with what it lacks of module and PIN taken from another
// URI, so that several settings can name the same token's keys in short. It
// fails if either is no PKCS#11 URI.
func Complete(uri, from string) (string, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return "", err
	}
	other, err := ParseURI(from)
	if err != nil {
		return "", err
	}
	if u.ModulePath == "" && u.ModuleName == "" {
		u.ModulePath, u.ModuleName, u.InitArgs = other.ModulePath, other.ModuleName, other.InitArgs
	}
	if u.PINSource == "" && u.PINValue == "" {
		u.PINSource, u.PINValue = other.PINSource, other.PINValue
	}
	return u.withPIN(), nil
}
