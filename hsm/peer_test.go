//go:build cgo

package hsm

import (
	"crypto/x509"
	"os"
	"strings"
	"testing"

	"github.com/eclipse-keypont/crypto11"
)

// TestCrypto11Agrees has another library find the audit key by its label and sign
// with it: what we leave in a token is there for others, too.
func TestCrypto11Agrees(t *testing.T) {
	token := newSoftHSM(t)
	uri, public := token.withKey(t, ECDSAP256, "audit")
	u, err := ParseURI(uri)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := os.ReadFile(u.PINSource)
	if err != nil {
		t.Fatal(err)
	}
	peer, err := crypto11.Configure(&crypto11.Config{
		Path: u.ModulePath, TokenLabel: u.Token, Pin: strings.TrimSpace(string(pin)), MaxSessions: 4,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	key, err := peer.FindKeyPair(nil, []byte("audit"))
	if err != nil || key == nil {
		t.Fatalf("crypto11 finds %v, %v", key, err)
	}
	ours, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	checkSigns(t, key, ours)
}
