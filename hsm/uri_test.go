package hsm

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseURI(t *testing.T) {
	for _, test := range []struct {
		in   string
		want URI
	}{
		// The examples of RFC 7512, section 3, as far as they apply.
		{"pkcs11:", URI{}},
		{"pkcs11:object=my-pubkey;type=public", URI{Object: "my-pubkey", Type: "public"}},
		{"pkcs11:object=my-key;type=private?pin-source=file:/etc/token", URI{Object: "my-key", Type: "private", PINSource: "file:/etc/token"}},
		{"pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;object=my-certificate;type=cert;" +
			"id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin",
			URI{Token: "The Software PKCS#11 Softtoken", Manufacturer: "Snake Oil, Inc.", Model: "1.0", Object: "my-certificate", Type: "cert",
				ID: []byte("\x69\x95\x3e\x5c\xf4\xbd\xec\x91"), PINSource: "file:/etc/token_pin"}},
		{"pkcs11:object=my-sign-key;type=private?module-name=mypkcs11", URI{Object: "my-sign-key", Type: "private", ModuleName: "mypkcs11"}},
		{"pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1", URI{Object: "my-sign-key", Type: "private", ModulePath: "/mnt/libmypkcs11.so.1"}},
		{"pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-value=the-pin",
			URI{Token: "Software PKCS#11 softtoken", Manufacturer: "Snake Oil, Inc.", PINValue: "the-pin"}},
		{"pkcs11:token=My%20token%25%20created%20by%20Joe;library-version=3;id=%01%02%03%Ba%dd%Ca%fe%04%05%06",
			URI{Token: "My token% created by Joe", LibraryVersion: "3", ID: []byte("\x01\x02\x03\xba\xdd\xca\xfe\x04\x05\x06")}},
		{"pkcs11:token=A%20name%20with%20a%20substring%20%25%3B;object=my-certificate;type=cert",
			URI{Token: "A name with a substring %;", Object: "my-certificate", Type: "cert"}},
		{"pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1", URI{Token: "Name with a small A with acute: á"}},
		{"pkcs11:serial=1?x-init-args=configdir='sql:/a'%20flags=", URI{Serial: "1", InitArgs: "configdir='sql:/a' flags="}},
	} {
		got, err := ParseURI(test.in)
		if err != nil {
			t.Errorf("%s: %v", test.in, err)
			continue
		}
		if !reflect.DeepEqual(*got, test.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", test.in, *got, test.want)
		}
		if again, err := ParseURI(got.withPIN()); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%s is written as %s (%v)", test.in, got.withPIN(), err)
		}
	}
}

func TestParseURIRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                                 "starts with",
		"pkcs12:token=a":                   "starts with",
		"PKCS11:token=a":                   "starts with",
		"pkcs11:token":                     "no value",
		"pkcs11:token=a;token=b":           "twice",
		"pkcs11:token=a;":                  "no value",
		"pkcs11:tokn=a":                    "known are",
		"pkcs11:pin-value=1":               "unknown attribute",
		"pkcs11:?token=a":                  "unknown attribute",
		"pkcs11:?modul-path=/a":            "module-path",
		"pkcs11:slot-id=3":                 "renumbered",
		"pkcs11:token=%4":                  "percent",
		"pkcs11:token=%zz":                 "percent",
		"pkcs11:token=a b":                 "%20",
		"pkcs11:token=a#b":                 "%23",
		"pkcs11:token=a/b":                 "%2F",
		"pkcs11:type=secret":               "unknown type",
		"pkcs11:?pin-source=a&pin-value=b": "exclude",
	} {
		if _, err := ParseURI(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", in, err, want)
		}
	}
}

func TestURIHidesThePIN(t *testing.T) {
	u, err := ParseURI("pkcs11:token=a?pin-value=4321")
	if err != nil {
		t.Fatal(err)
	}
	if s := u.String(); strings.Contains(s, "4321") || !strings.Contains(s, "REDACTED") {
		t.Error(s)
	}
	if u.PINValue != "4321" {
		t.Error("the PIN itself was changed")
	}
}

func TestURIFindsTheModule(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "libvendor.so")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, uri := range []string{"pkcs11:?module-path=" + file, "pkcs11:?module-path=" + dir + "&module-name=vendor"} {
		u, err := ParseURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := u.module(); got != file || err != nil {
			t.Errorf("%s: %s, %v", uri, got, err)
		}
	}
	for uri, hint := range map[string]string{
		"pkcs11:token=a":                      "module-path=/usr/lib",
		"pkcs11:?module-path=/nowhere.so":     "correct module-path",
		"pkcs11:?module-name=keymill-no-such": "by module-path",
	} {
		u, err := ParseURI(uri)
		if err != nil {
			t.Fatal(err)
		}
		_, err = u.module()
		if Hint(err) == "" || !strings.Contains(Hint(err), hint) {
			t.Errorf("%s: %v, hint %q", uri, err, Hint(err))
		}
	}
}

func FuzzParseURI(f *testing.F) {
	for _, seed := range []string{
		"pkcs11:token=a;id=%00%ff?pin-source=file:/x&module-path=/m", "pkcs11:", "pkcs11:?x-init-args=a%20b", "pkcs11:object=%C3%A1;type=private",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		u, err := ParseURI(in)
		if err != nil {
			return
		}
		again, err := ParseURI(u.withPIN())
		if err != nil {
			t.Fatalf("%q becomes %q: %v", in, u.withPIN(), err)
		}
		same := reflect.DeepEqual(u, again) || len(u.ID)+len(again.ID) == 0 && again.withPIN() == u.withPIN()
		if !same || !bytes.Equal(u.ID, again.ID) {
			t.Fatalf("%q becomes %+v, then %+v", in, u, again)
		}
	})
}

func TestComplete(t *testing.T) {
	for _, test := range []struct{ uri, from, want string }{
		{"pkcs11:token=a;object=audit", "pkcs11:token=a?module-path=/m.so&pin-source=/pin", "pkcs11:token=a;object=audit?module-path=/m.so&pin-source=/pin"},
		{"pkcs11:object=audit?module-path=/n.so", "pkcs11:?module-path=/m.so&x-init-args=i&pin-value=1", "pkcs11:object=audit?module-path=/n.so&pin-value=1"},
		{"pkcs11:object=audit?pin-source=/own", "pkcs11:?module-name=m&pin-source=/pin", "pkcs11:object=audit?module-name=m&pin-source=/own"},
	} {
		if got, err := Complete(test.uri, test.from); got != test.want || err != nil {
			t.Errorf("%s from %s: %s, %v", test.uri, test.from, got, err)
		}
	}
	for _, bad := range [][2]string{{"key.pem", "pkcs11:"}, {"pkcs11:", ""}} {
		if _, err := Complete(bad[0], bad[1]); err == nil {
			t.Errorf("%q completed", bad)
		}
	}
}
