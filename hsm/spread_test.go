//go:build cgo

package hsm

import (
	"os/exec"
	"strings"
	"testing"
)

// twoTokens are two tokens of one SoftHSM: one behind a module that misbehaves
// on request, one that behaves.
func twoTokens(t *testing.T) (bad *badToken, badConfig, good Config) {
	t.Helper()
	bad = newBadToken(t)
	twin := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "second", "--so-pin", "87654321", "--pin", "4321")
	if out, err := twin.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	badConfig = bad.config(t)
	good = badConfig
	// p11-kit's proxy or a copy would do: two modules of one file share their state.
	good.URI = strings.Replace(badConfig.URI, "token=factory", "token=second", 1)
	badConfig.Modules = NewModules()
	good.Modules = badConfig.Modules
	t.Cleanup(func() {
		if err := good.Modules.Close(); err != nil {
			t.Error(err)
		}
	})
	return bad, badConfig, good
}

// A token that fails every key is taken out, and the other makes what is left.
func TestATokenIsTakenOut(t *testing.T) {
	bad, first, second := twoTokens(t)
	source, err := OpenSpread(t.Context(), ModeHSM, ECDSAP256, first, second)
	if err != nil {
		t.Fatal(err)
	}
	s := source.(*spread)
	made := map[string]int{}
	make := func(n int) {
		t.Helper()
		for range n {
			private, public, err := source.Generate(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			checkPair(t, ECDSAP256, private, public)
			made[source.(Maker).MadeBy(public)]++
		}
	}
	if errs := generate(t, source, 8, 60); len(errs) > 0 {
		t.Fatal(errs[0])
	}
	clear(s.makers)
	bad.set(goneSlot, 1)
	make(30)
	if len(made) != 1 || made[s.members[1].name] != 30 || !strings.HasSuffix(s.members[1].name, "/second") {
		t.Errorf("made by %v", made)
	}
	if s.members[0].gone == nil || s.members[1].gone != nil {
		t.Errorf("taken out: %v, %v", s.members[0].gone, s.members[1].gone)
	}
	bad.set(goneForGood, 1)
	_, _, err = source.Generate(t.Context(), "")
	wantGone(t, err, "connected")
	bad.set(goneForGood, 0)
	bad.set(goneSlot, 0)
	if err := source.Close(); err != nil {
		t.Error(err)
	}
	if origin := source.Origin(); len(origin.Others) != 1 || origin.Others[0].TokenLabel != "second" {
		t.Errorf("%+v", origin)
	}
}

func TestSpreadRefuses(t *testing.T) {
	bad, first, second := twoTokens(t)
	_, err := OpenSpread(t.Context(), ModeHSM, ECDSAP256, first, first)
	wantRefused(t, err, "once")
	_, err = OpenSpread(t.Context(), ModeHSM, Ed25519, first, second)
	wantRefused(t, err, "hsm-entropy")
	// One that is gone at the start is said, and done without.
	absent := second
	absent.URI = strings.Replace(second.URI, "token=second", "token=third", 1)
	source, err := OpenSpread(t.Context(), ModeHSM, ECDSAP256, absent, first)
	if err != nil {
		t.Fatal(err)
	}
	if errs := generate(t, source, 4, 20); len(errs) > 0 {
		t.Error(errs[0])
	}
	if err := source.Close(); err != nil {
		t.Error(err)
	}
	_, err = OpenSpread(t.Context(), ModeHSM, ECDSAP256, absent, absent)
	wantGone(t, err, "token=factory")
	_ = bad
}
