package sources

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"keymill/pipeline"
)

func TestParseMAC(t *testing.T) {
	for _, s := range []string{"00:1b:63:84:45:e6", "00-1B-63-84-45-E6", "001B.6384.45e6", "001b638445e6", "001B63-8445E6", "00 1b 63 84 45 e6", "00.1b.63.84.45.e6", "001b-6384-45e6"} {
		m, err := ParseMAC(s)
		if err != nil || m.String() != "00:1b:63:84:45:e6" {
			t.Errorf("%q: %v, %v", s, m, err)
		}
	}
	for _, s := range []string{"", "00:1b:63:84:45", "00:1b:63:84:45:e", "00:1b-63:84:45:e6", "00:1b:63:84:45:g6", "00_1b_63_84_45_e6",
		"0:1b:63:84:45:e6", "00:1b:63:84:45:e6:00:00", "001b638445e60", ":001b638445e6", "00:1b:63:84:45:e6 ", "1.23457E+11", "0x1b638445e6", "00:1b:63:84:45:é6"} {
		if m, err := ParseMAC(s); !errors.Is(err, ErrNotMAC) {
			t.Errorf("%q: %v, %v", s, m, err)
		}
	}
}

func TestParseMACAgreesWithNet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 6, 6).Draw(t, "mac")
		text := net.HardwareAddr(b).String()
		m, err := ParseMAC(strings.ToUpper(text))
		if err != nil || m.String() != text || !canonicalMAC(m.String()) {
			t.Fatalf("%s: %v, %v", text, m, err)
		}
	})
}

// keys returns key material in the forms in which it might stray into a
// manifest.
func keys(t testing.TB) map[string]string {
	t.Helper()
	check := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8 := check(x509.MarshalPKCS8PrivateKey(priv))
	spki := check(x509.MarshalPKIXPublicKey(pub))
	sec1 := check(x509.MarshalECPrivateKey(ec))
	block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	return map[string]string{
		"PEM":             string(block),
		"PEM on one line": strings.ReplaceAll(string(block), "\n", " "),
		"PEM in base64":   base64.StdEncoding.EncodeToString(block),
		"PKCS#8 base64":   base64.StdEncoding.EncodeToString(pkcs8),
		"PKCS#8 hex":      hex.EncodeToString(pkcs8),
		"PKCS#8 url":      base64.RawURLEncoding.EncodeToString(pkcs8),
		"SPKI base64":     base64.StdEncoding.EncodeToString(spki),
		"SPKI HEX":        strings.ToUpper(hex.EncodeToString(spki)),
		"SEC1 base64":     base64.StdEncoding.EncodeToString(sec1),
		"SSH":             "ssh-ed25519 " + base64.StdEncoding.EncodeToString(append([]byte("\x00\x00\x00\x0bssh-ed25519\x00\x00\x00 "), pub...)),
		"age":             "AGE-SECRET-KEY-1" + strings.Repeat("Q", 58),
		"JWK":             `{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}`,
	}
}

func TestKeysAreRefusedAndNotShown(t *testing.T) {
	for name, key := range keys(t) {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			w := csv.NewWriter(&b)
			_ = w.WriteAll([][]string{{"MAC", "token"}, {"00:1b:63:84:45:e6", key}})
			p := want(t, takeCSV(t, b.String(), Config{}), 2, "token", "key")
			tail := key[len(key)-20 : len(key)-8]
			if strings.Contains(p.String(), tail) || len(p.Value) > 20 {
				t.Errorf("the problem shows the key: %s", p)
			}
		})
	}
}

func TestBrokenOutPEMIsNotShown(t *testing.T) {
	// A PEM pasted without quotes breaks out into rows of its own.
	pem := keys(t)["PEM"]
	o := takeCSV(t, "MAC\n00:1b:63:84:45:e6\n"+pem, Config{})
	secret := strings.Split(pem, "\n")[1]
	for _, p := range o.problems {
		if strings.Contains(p.String(), secret[20:40]) {
			t.Errorf("the problem shows the key: %s", p)
		}
	}
}

func TestOrdinaryValuesAreNoKeys(t *testing.T) {
	for _, v := range []string{"MAC-0012", "M" + strings.Repeat("A", 80), "30" + strings.Repeat("0", 60), "90014a484247346132a4b2f3c1d2e6f1",
		"3f2504e0-4f89-11d3-9a0c-0305e82c3301", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "Main board, revision 30, with the long antenna and the long description"} {
		if kind := holdsKey(v); kind != "" {
			t.Errorf("%q is taken for %s", v, kind)
		}
	}
}

func TestTaken(t *testing.T) {
	var b strings.Builder
	if err := Generate(&b, 1203, 1); err != nil {
		t.Fatal(err)
	}
	path := write(t, "m.csv", []byte(b.String()))
	devs := accept(t, take(t, path, Config{}))
	other := map[pipeline.IdentitySum]string{devs[3].Identity.Sum(): "lot A, row 9", devs[1202].Identity.Sum(): "lot B, row 2"}
	var asked []int
	o := take(t, path, Config{Taken: func(_ context.Context, ids []pipeline.IdentitySum) (map[pipeline.IdentitySum]string, error) {
		asked = append(asked, len(ids))
		return other, nil
	}})
	want(t, o, 5, "MAC address", "lot A, row 9")
	want(t, o, 1204, "MAC address", "lot B, row 2")
	if fmt.Sprint(asked) != "[500 500 203]" || len(o.problems) != 2 {
		t.Errorf("asked for %v, problems %v", asked, o.problems)
	}
	gone := errors.New("ledger gone")
	o = take(t, path, Config{Taken: func(context.Context, []pipeline.IdentitySum) (map[pipeline.IdentitySum]string, error) {
		return nil, gone
	}})
	if !errors.Is(o.err, gone) || Refused(o.err) {
		t.Errorf("got %v", o.err)
	}
}

func TestCheckIsCancelled(t *testing.T) {
	m, err := Open(write(t, "m.csv", []byte("MAC\n00:1b:63:84:45:e6\n")), Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Check(ctx, func(Problem) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCellName(t *testing.T) {
	for want, at := range map[string][2]int{"A1": {0, 1}, "Z9": {25, 9}, "AA10": {26, 10}, "XFD1048576": {16383, 1048576}} {
		if got := cellName(at[0], at[1]); got != want {
			t.Errorf("%v: %s, want %s", at, got, want)
		}
		if col, row, err := parseCell([]byte(want)); err != nil || col != at[0] || row != at[1] {
			t.Errorf("%s: %d, %d, %v", want, col, row, err)
		}
	}
	for _, bad := range []string{"", "A", "7", "A0", "XFE1", "A1048577", "AAAA1", "A1B", "A99999999999999999999", "$A$1"} {
		if _, _, err := parseCell([]byte(bad)); err == nil {
			t.Errorf("%q is taken for a cell", bad)
		}
	}
}
