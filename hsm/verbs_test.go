//go:build cgo

package hsm

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/json"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
)

func TestList(t *testing.T) {
	token := newSoftHSM(t)
	u, err := ParseURI(token.uri)
	if err != nil {
		t.Fatal(err)
	}
	listing, err := List(t.Context(), Config{URI: "pkcs11:?module-path=" + u.ModulePath})
	if err != nil {
		t.Fatal(err)
	}
	if len(listing.Tokens) != 2 { // SoftHSM always shows one more, not initialised
		t.Fatalf("%+v", listing)
	}
	first := listing.Tokens[0]
	if first.Label != "factory" || !strings.Contains(strings.Join(first.Mechanisms, " "), "AES_KEY_WRAP_PAD") ||
		!strings.Contains(strings.Join(first.State, ","), "login required") || first.Serial == "" {
		t.Errorf("%+v", first)
	}
	checkTable(t, listing, "factory", "PIN set", "firmware")
	if again, err := List(t.Context(), Config{URI: first.URI + "?module-path=" + u.ModulePath}); err != nil || len(again.Tokens) != 1 {
		t.Errorf("the listed URI names %+v, %v", again, err)
	}
}

func TestTokensAreNamedNotGuessed(t *testing.T) {
	token := newSoftHSM(t)
	twin := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "factory", "--so-pin", "87654321", "--pin", "4321")
	if out, err := twin.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, err := Open(t.Context(), ModeHSM, ECDSAP256, token.config(t))
	wantRefused(t, err, "serial=")
	listing, err := List(t.Context(), Config{URI: token.uri})
	if err != nil || len(listing.Tokens) != 2 {
		t.Fatalf("%+v, %v", listing, err)
	}
	_, query, _ := strings.Cut(token.uri, "?")
	for _, info := range listing.Tokens {
		source := mustOpen(t, ModeEntropy, Ed25519, Config{URI: info.URI + "?" + query})
		if got := source.Origin().TokenSerial; got != info.Serial {
			t.Errorf("opened %s instead of %s", got, info.Serial)
		}
	}
	_, err = Open(t.Context(), ModeHSM, ECDSAP256, Config{URI: "pkcs11:token=other?" + query})
	wantGone(t, err, "token=factory")
	_, err = Open(t.Context(), ModeHSM, ECDSAP256, Config{URI: "pkcs11:token=factory;slot-id=0?" + query})
	wantRefused(t, err, "module-path")
}

// checkTable looks for words in what people get to see, and that programs can
// read the same.
func checkTable(t *testing.T, report interface{ WriteTable(w io.Writer) error }, words ...string) {
	t.Helper()
	var out bytes.Buffer
	if err := report.WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	for _, word := range words {
		if !strings.Contains(out.String(), word) {
			t.Errorf("no %q in\n%s", word, out.String())
		}
	}
	if _, err := json.Marshal(report); err != nil {
		t.Error(err)
	}
}

func TestProbeReports(t *testing.T) {
	for name, want := range map[string][]string{
		"softhsm": {"hsm/ecdsa-p256", "hsm/ecdsa-p384", "hsm/rsa-2048",
			"hsm-entropy/ed25519", "hsm-entropy/ecdsa-p256", "hsm-entropy/ecdsa-p384",
			"token/ed25519", "token/ecdsa-p256", "token/ecdsa-p384", "token/rsa-2048"},
		"tpm": {"hsm-entropy/ed25519", "hsm-entropy/ecdsa-p256", "hsm-entropy/ecdsa-p384", "token/ecdsa-p256"},
	} {
		t.Run(name, func(t *testing.T) {
			token := tokens[name].token(t)
			before := token.objects(t)
			report, err := Test(t.Context(), token.config(t), Ed25519, ECDSAP256, ECDSAP384, RSA2048)
			if err != nil {
				t.Fatal(err)
			}
			works := map[string]bool{}
			for _, u := range report.Usable {
				works[string(u.Mode)+"/"+string(u.Algorithm)] = u.OK
				if u.How == "" {
					t.Errorf("%+v says nothing", u)
				}
			}
			for _, w := range want {
				if !works[w] {
					t.Errorf("%s doesn't work", w)
				}
			}
			if works["hsm/ed25519"] {
				t.Error("hsm/ed25519 works")
			}
			checkTable(t, report, "TRIED", "WHY NOT")
			if n := token.objects(t) - before; n != 0 {
				t.Errorf("%d objects left", n)
			}
		})
	}
}

func TestNSSHandsOutWhatItShouldKeep(t *testing.T) {
	token := newNSS(t)
	source := mustOpen(t, ModeHSM, ECDSAP256, token.config(t))
	origin := source.Origin()
	if !strings.Contains(strings.Join(origin.Warnings, ";"), "not extractable") {
		t.Errorf("no warning in %+v", origin)
	}
	if !strings.Contains(origin.Transport, "SHA-256") {
		t.Errorf("transport %s", origin.Transport)
	}
	soft := mustOpen(t, ModeHSM, ECDSAP256, newSoftHSM(t).config(t)).Origin()
	if strings.Contains(strings.Join(soft.Warnings, ";"), "not extractable") || !strings.Contains(soft.Transport, "SHA-1") {
		t.Errorf("SoftHSM: %+v", soft)
	}
}

// The same number means one thing in SoftHSM and another in NSS, and miekg/pkcs11
// can't wrap by KWP in NSS, which tells too small a length: all is found out.
func TestWhatMechanismNumbersMean(t *testing.T) {
	for name, want := range map[string][2]string{ // without and with room given at once
		"softhsm": {"CKM_AES_KEY_WRAP_PAD (RFC 5649) CKM_AES_KEY_WRAP (RFC 3394)", "CKM_AES_KEY_WRAP_PAD (RFC 5649) CKM_AES_KEY_WRAP (RFC 3394)"},
		"nss": {"CKM_AES_KEY_WRAP_PAD (RFC 3394 with PKCS#7) CKM_AES_CBC_PAD",
			"CKM_AES_KEY_WRAP_KWP (RFC 5649) CKM_AES_KEY_WRAP_PAD (RFC 3394 with PKCS#7) CKM_AES_CBC_PAD"},
	} {
		t.Run(name, func(t *testing.T) {
			source := mustOpen(t, ModeHSM, ECDSAP256, tokens[name].token(t).config(t)).(*wrapped)
			for i, direct := range []*direct{nil, source.pool.mod.direct} {
				works, err := use(t.Context(), source.pool, func(s *session) (works []string, err error) {
					s.direct = direct
					p, err := s.generate(ECDSAP256, traits{extractable: true})
					if err != nil {
						return nil, err
					}
					for _, w := range wrappings() {
						if !w.fits(s.kek) {
							continue
						}
						parcel, err := s.wrap(&w, p)
						if err == nil {
							_, err = parcel.open(&w, ECDSAP256)
						}
						if err == nil {
							works = append(works, w.name)
						}
					}
					return works, s.destroy(p)
				})
				if got := strings.Join(works, " "); err != nil || got != want[i] {
					t.Errorf("works: %s, want %s (%v)", got, want[i], err)
				}
			}
		})
	}
}

// Every way to share a wrapping key ends with one that can't leave the token
// (again), and that takes a device key out.
func TestTransports(t *testing.T) {
	host, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	for name, works := range map[string][]bool{"softhsm": {false, true, false, true}, "nss": {true, true, false, true}} {
		source := mustOpen(t, ModeHSM, ECDSAP256, tokens[name].token(t).config(t)).(*wrapped)
		for i, way := range transports() {
			_, err := use(t.Context(), source.pool, func(s *session) (struct{}, error) {
				k, err := way.make(s, host)
				if err != nil {
					return struct{}{}, err
				}
				s.kek = k
				if k.host != nil { // a public key has nothing to hide
					_, err = s.probeExit(ECDSAP256, nil, ignore)
					return struct{}{}, err
				}
				if s.flag(k.object, pkcs11.CKA_EXTRACTABLE) || !s.flag(k.object, pkcs11.CKA_SENSITIVE) {
					t.Errorf("%s: the wrapping key %s can leave the token", name, way.name)
				}
				if _, err := s.exportTo(host, k.object, pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, sha1.New); err == nil && name != "nss" {
					t.Errorf("%s: the wrapping key %s was exported again", name, way.name)
				}
				_, err = s.probeExit(ECDSAP256, nil, ignore)
				return struct{}{}, err
			})
			if (err == nil) != works[i] {
				t.Errorf("%s, %s: %v", name, way.name, err)
			}
		}
	}
}

func TestBench(t *testing.T) {
	token := newSoftHSM(t)
	report, err := Bench(t.Context(), token.config(t), BenchOptions{
		Algorithms: []Algorithm{ECDSAP256, Ed25519}, Sessions: []int{1, 2}, Duration: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Rows) != 3 || len(report.Best) != 1 || report.Rows[0].KeysPerSecond <= 0 || report.Rows[2].Problem == "" {
		t.Errorf("%+v", report)
	}
	checkTable(t, report, "KEYS/S", "best")
}

func TestBestRowTakesTheFewestSessionsThatDo(t *testing.T) {
	rows := []BenchRow{{Sessions: 1, KeysPerSecond: 60}, {Sessions: 2, KeysPerSecond: 97}, {Sessions: 4, KeysPerSecond: 100}}
	if best := bestRow(rows); best.Sessions != 2 {
		t.Errorf("%+v", best)
	}
	if bestRow([]BenchRow{{Problem: "no"}}) != nil {
		t.Error("a best of nothing")
	}
}

func TestGC(t *testing.T) {
	token := newSoftHSM(t)
	cfg := token.config(t)
	journal := cfg.Journal.(*FileJournal)
	source := mustOpen(t, ModeToken, ECDSAP256, cfg)
	_, recorded, err := source.Generate(t.Context(), "recorded")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := source.Generate(t.Context(), "crashed before it was recorded"); err != nil {
		t.Fatal(err)
	}
	leaveBehind(t, source.(*device))
	if err := journal.Intend(t.Context(), JournalEntry{ID: []byte("never made"), Label: "x"}); err != nil {
		t.Fatal(err)
	}
	inUse := func(_ context.Context, public []byte) (bool, error) { return bytes.Equal(public, recorded), nil }

	opts := GCOptions{Journaled: journal.Open()}
	report, err := GC(t.Context(), cfg, opts)
	if err != nil || len(report.Left) != 5 || token.objects(t) != 10 {
		t.Fatalf("dry run without a ledger: %+v, %v", report, err)
	}
	checkTable(t, report, "dry run", "ledger has to tell", "another station")
	opts.Destroy = true
	if report, err = GC(t.Context(), cfg, opts); err != nil || token.objects(t) != 6 {
		t.Fatalf("without a ledger: %+v, %v", report, err)
	}
	opts.InUse, opts.Journaled = inUse, journal.Open()
	if report, err = GC(t.Context(), cfg, opts); err != nil || len(report.Left) != 2 || !report.Left[0].Destroyed || report.Left[1].Destroyed {
		t.Fatalf("with a ledger: %+v, %v", report, err)
	}
	if n := token.objects(t); n != 4 {
		t.Errorf("%d objects, want the recorded device's two, and the other station's", n)
	}
	left := journal.Open()
	if len(left) != 1 || left[0].Label != "recorded" {
		t.Errorf("open in the journal: %q, want the key that can still be taken back", left)
	}
	opts.InUse = func(context.Context, []byte) (bool, error) { return false, nil }
	if _, err := GC(t.Context(), cfg, opts); err != nil || token.objects(t) != 2 || len(journal.Open()) != 0 {
		t.Errorf("taken back: %v, %d objects, %q", err, token.objects(t), journal.Open())
	}
}

// A second token at the same station: its cleaning up is not the first one's.
func TestGCOfAnotherToken(t *testing.T) {
	first := newSoftHSM(t)
	twin := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "second", "--so-pin", "87654321", "--pin", "4321")
	if out, err := twin.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cfg := first.config(t)
	journal := cfg.Journal.(*FileJournal)
	source := mustOpen(t, ModeToken, ECDSAP256, cfg)
	if _, _, err := source.Generate(t.Context(), "device"); err != nil {
		t.Fatal(err)
	}
	other := cfg
	other.URI = strings.Replace(cfg.URI, "token=factory", "token=second", 1)
	nobodys := func(context.Context, []byte) (bool, error) { return false, nil }
	opts := GCOptions{Destroy: true, Journaled: journal.Open(), InUse: nobodys}
	if report, err := GC(t.Context(), other, opts); err != nil || len(report.Left) != 0 || len(journal.Open()) != 1 {
		t.Errorf("%+v, %v; open in the journal: %q", report, err, journal.Open())
	}
	if report, err := GC(t.Context(), cfg, opts); err != nil || len(report.Left) != 1 || first.objects(t) != 0 {
		t.Errorf("%+v, %v; %d objects", report, err, first.objects(t))
	}
}

// leaveBehind makes temporary keys as a crash would leave them: one that the
// journal knows, one that it has lost, and one that another station is making.
func leaveBehind(t *testing.T, d *device) {
	t.Helper()
	journaled, err := d.ids(t.Context()).newID(probeLabel)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := timedID(time.Now().Add(-2 * settled))
	if err != nil {
		t.Fatal(err)
	}
	others, err := timedID(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range [][]byte{journaled, lost, others} {
		if _, err := use(t.Context(), d.pool, func(s *session) (*pair, error) {
			return s.generate(ECDSAP256, traits{token: true, extractable: true, id: id, label: probeLabel})
		}); err != nil {
			t.Fatal(err)
		}
	}
}
