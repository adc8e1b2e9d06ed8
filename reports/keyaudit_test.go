package reports

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"

	"keymill/pipeline"
)

// prime returns a random prime of the given size.
func prime(t testing.TB, bits int) *big.Int {
	t.Helper()
	p, err := rand.Prime(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// addKey puts a device with a public key into a lot.
func (l *fakeLedger) addKey(lot, algorithm string, pub any) {
	der, ok := pub.([]byte)
	if !ok {
		var err error
		if der, err = x509.MarshalPKIXPublicKey(pub); err != nil {
			l.t.Fatal(err)
		}
	}
	row := len(l.records[lot]) + 2
	r := &pipeline.Record{Lot: lot, PublicKey: der, Algorithm: algorithm, State: pipeline.Released}
	r.Row, r.Identity = row, pipeline.Identity{{Name: "mac", Value: fmt.Sprintf("%s-%d", lot, row)}}
	l.records[lot] = append(l.records[lot], r)
}

func rsaPublic(p, q *big.Int, e int) *rsa.PublicKey {
	return &rsa.PublicKey{N: new(big.Int).Mul(p, q), E: e}
}

func findings(a *KeyAudit) []string {
	var out []string
	for _, f := range a.Findings {
		text := f.Kind
		for _, o := range f.Owners {
			text += " " + o.Device
		}
		out = append(out, text)
	}
	return out
}

func TestAuditFindsWeakKeys(t *testing.T) {
	l := newLedger(t)
	p, q, r, s, u, v := prime(t, 1024), prime(t, 1024), prime(t, 1024), prime(t, 1024), prime(t, 1024), prime(t, 1024)
	next := new(big.Int).Add(u, big.NewInt(2))
	for !next.ProbablyPrime(20) {
		next.Add(next, big.NewInt(2))
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	size := func(k *rsa.PublicKey) string { return fmt.Sprintf("rsa-%d", k.N.BitLen()) }
	add := func(lot string, k *rsa.PublicKey) { l.addKey(lot, size(k), k) }
	add("a", rsaPublic(p, q, 65537)) // a-2
	l.addKey("a", "ecdsa-p256", ec.Public())
	l.addKey("a", "ecdsa-p384", ec.Public()) // a-4: a-3's key
	add("a", rsaPublic(r, s, 3))             // a-5
	add("a", rsaPublic(prime(t, 512), prime(t, 512), 65537))
	add("a", rsaPublic(u, next, 65537))                                                          // a-7: close primes
	l.addKey("a", "rsa-3072", rsaPublic(prime(t, 1024), prime(t, 1024), 65537))                  // a-8: recorded as longer
	l.addKey("a", "ed25519", []byte("junk"))                                                     // a-9
	add("a", rsaPublic(big.NewInt(101), prime(t, 2042), 65537))                                  // a-10
	add("a", &rsa.PublicKey{N: new(big.Int).Exp(big.NewInt(65537), big.NewInt(128), nil), E: 3}) // a-11: of the ROCA form
	l.addKey("b", "ecdsa-p256", ec.Public())                                                     // b-2: a-3's key again
	add("b", rsaPublic(v, q, 65537))                                                             // b-3: shares q with a-2
	add("b", rsaPublic(p, q, 65539))                                                             // b-4: a-2's modulus
	listed := rsaPublic(prime(t, 1024), prime(t, 1024), 65537)
	add("b", listed) // b-5

	list := "# a list\n\n" + strings.ToUpper(debianSum(listed.N)) + "\n"
	a, err := AuditKeys(t.Context(), l, []string{"a", "b"}, KeyAuditOptions{WeakKeys: []io.Reader{strings.NewReader(list)}})
	if err != nil {
		t.Fatal(err)
	}
	if a.Keys != 14 || a.RSA != 10 {
		t.Errorf("%d keys, %d RSA", a.Keys, a.RSA)
	}
	got := findings(a)
	for _, want := range []string{
		"duplicate a-3 a-4 b-2", "exponent a-5", "size a-6", "factor a-7", "size a-8", "unreadable a-9",
		"factor a-10", "exponent a-11", "roca a-11", "shared-factor a-2 b-3", "shared-factor a-2 b-4", "weak-list b-5",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("not found: %s", want)
		}
	}
	for _, f := range got {
		if strings.HasSuffix(f, " a-2") {
			t.Errorf("wrong finding: %s", f)
		}
	}
	if _, err := AuditKeys(t.Context(), l, nil, KeyAuditOptions{WeakKeys: []io.Reader{strings.NewReader("hello")}}); err == nil || pipeline.Hint(err) == "" {
		t.Errorf("a list of nonsense: %v", err)
	}
}

func TestAuditOfSoundKeysFindsNothing(t *testing.T) {
	l := newLedger(t)
	l.fill("lot-1", 50)
	for range 6 {
		k := rsaPublic(prime(t, 1024), prime(t, 1024), 65537)
		for k.N.BitLen() != 2048 {
			k = rsaPublic(prime(t, 1024), prime(t, 1024), 65537)
		}
		l.addKey("rsa", "rsa-2048", k)
	}
	a, err := AuditKeys(t.Context(), l, []string{"lot-1", "rsa"}, KeyAuditOptions{})
	if err != nil || len(a.Findings) != 0 || a.Keys != 56 {
		t.Errorf("%v, %+v", err, a)
	}
}

// TestROCA takes keys from the paper's construction: primes k*M + 65537^a mod M.
func TestROCA(t *testing.T) {
	m := big.NewInt(1)
	for _, p := range smallPrimes() {
		m.Mul(m, big.NewInt(p))
	}
	weak := func() *big.Int {
		for {
			k, _ := rand.Int(rand.Reader, new(big.Int).Lsh(one, 37))
			a, _ := rand.Int(rand.Reader, new(big.Int).Lsh(one, 62))
			p := new(big.Int).Exp(big.NewInt(65537), a, m)
			p.Add(p, k.Mul(k, m))
			if p.ProbablyPrime(20) {
				return p
			}
		}
	}
	if n := new(big.Int).Mul(weak(), weak()); !roca(n) {
		t.Errorf("%v is not recognized", n)
	}
	for range 200 {
		n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(one, 512))
		if roca(n.SetBit(n, 0, 1)) {
			t.Errorf("%v is taken for one", n)
		}
	}
}

// TestBatchGCD plants shared primes at random and compares with all pairs.
func TestBatchGCD(t *testing.T) {
	primes := make([]*big.Int, 60)
	for i := range primes {
		primes[i] = prime(t, 96)
	}
	for _, n := range []int{0, 1, 2, 3, 17, 28} {
		var moduli []*big.Int
		for i := range n {
			second := 2*i + 1
			if i%7 == 3 {
				second = 1 // shared with modulus 0
			}
			moduli = append(moduli, new(big.Int).Mul(primes[2*i], primes[second]))
		}
		var want []int
		for i, x := range moduli {
			for j, y := range moduli {
				if i != j && new(big.Int).GCD(nil, nil, x, y).Cmp(one) != 0 {
					want = append(want, i)
					break
				}
			}
		}
		got, err := batchGCD(t.Context(), moduli)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%d moduli: %v (%v), want %v", n, got, err, want)
		}
		// The same with the moduli in two trees.
		half := n / 2
		if half == 0 {
			continue
		}
		left, _ := productTree(t.Context(), moduli[:half])
		right, _ := productTree(t.Context(), moduli[half:])
		shared := make([]bool, half)
		if err := across(t.Context(), left, right.root(), shared); err != nil {
			t.Fatal(err)
		}
		for i := range half {
			pair := slices.ContainsFunc(moduli[half:], func(m *big.Int) bool {
				return new(big.Int).GCD(nil, nil, m, moduli[i]).Cmp(one) != 0
			})
			if pair != shared[i] {
				t.Errorf("%d moduli, %d across: %v", n, i, shared[i])
			}
		}
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := batchGCD(canceled, primes); err == nil {
		t.Error("a cancelled search is no error")
	}
}
