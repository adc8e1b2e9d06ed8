package reports

import (
	"strings"
	"testing"
)

// TestBundlesOfTheFirstFormatStillVerify: testdata/first-format was written by the
// keymill before lot logs (commit 3eb35cd), by way of its own verbs.
func TestBundlesOfTheFirstFormatStillVerify(t *testing.T) {
	for bundle, keys := range map[string][]string{"closed": {"station.pem"}, "open": {"station.pem"}, "ecdsa": {"ecdsa.pem", "station.pem"}} {
		t.Run(bundle, func(t *testing.T) {
			trust, dir := Trust{}, "testdata/first-format/"+bundle
			for _, name := range keys {
				key, err := ParsePublicKey(readFile(t, "testdata/first-format/"+name))
				if err != nil {
					t.Fatal(err)
				}
				trust.Keys = append(trust.Keys, key)
			}
			r := verify(t, dir, trust)
			wantValid(t, r)
			if r.Devices != 12 || !strings.Contains(strings.Join(r.Notes, " "), "devices can be hidden") {
				t.Errorf("it does not say what the first format cannot show: %+v", r)
			}
			p, err := ProveDeviceFromBundle(t.Context(), dir, firstReleased(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			d, err := VerifyUnit(t.Context(), p, Unit{Bundle: dir}, trust)
			if err != nil || !d.OK() {
				t.Errorf("%v, %+v", err, d)
			}
		})
	}
}

func firstReleased(t *testing.T, dir string) string {
	t.Helper()
	v := &verifier{dir: dir}
	for d, err := range v.listed {
		if err != nil {
			t.Fatal(err)
		}
		if d.State == "released" {
			return d.Attributes["serial"]
		}
	}
	t.Fatal("nothing is released")
	return ""
}
