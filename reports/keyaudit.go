package reports

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // the form of Debian's lists, not a signature
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"

	"keymill/pipeline"
)

// The kinds of findings of a key audit.
const (
	FindingDuplicate    = "duplicate"     // devices share a public key
	FindingSharedFactor = "shared-factor" // RSA moduli share a prime: all of them are broken
	FindingExponent     = "exponent"      // RSA with e below 65537, or even
	FindingSize         = "size"          // another size or type than recorded, or too short
	FindingROCA         = "roca"          // RSA with the structure of CVE-2017-15361
	FindingFactor       = "factor"        // RSA that falls to trial division or Fermat
	FindingWeakList     = "weak-list"     // on the list of known keys that was given
	FindingUnreadable   = "unreadable"    // not a public key
)

// KeyAudit is the outcome of an audit of all public keys of some lots.
type KeyAudit struct {
	Lots     []string     `json:"lots"`
	Keys     int          `json:"keys"`
	RSA      int          `json:"rsa"` // of these
	Findings []KeyFinding `json:"findings"`
}

// KeyFinding says what is wrong with the keys of some devices.
type KeyFinding struct {
	Kind   string     `json:"kind"`
	Text   string     `json:"text"`
	Owners []KeyOwner `json:"owners"`
}

// KeyOwner is a device that has an audited key.
type KeyOwner struct {
	Lot         string `json:"lot"`
	Row         int    `json:"row"`
	Device      string `json:"device"`
	Fingerprint string `json:"spki_sha256"`
}

// KeyAuditOptions says what an audit compares with.
type KeyAuditOptions struct {
	// WeakKeys are lists of known RSA keys in the form of Debian's
	// openssl-blacklist: a line for each, the last 20 hexadecimal digits of the
	// SHA-1 of "Modulus=HEX\n".
	WeakKeys []io.Reader
}

// AuditKeys looks for weak public keys in the given lots: keys that devices
// share, RSA moduli that share a prime (batch GCD over product trees), small
// exponents, wrong sizes, the ROCA structure, moduli that are easy to factor,
// and keys on lists. Its memory is about 100 bytes a key, for RSA the modulus
// and the trees of at most batchSize of them.
func AuditKeys(ctx context.Context, src Source, lots []string, opt KeyAuditOptions) (*KeyAudit, error) {
	a := &auditor{report: &KeyAudit{Lots: lots}, seen: map[[sha256.Size]byte]int{}, first: map[int]int{}}
	for _, list := range opt.WeakKeys {
		if err := a.load(list); err != nil {
			return nil, err
		}
	}
	for _, lot := range lots {
		for r, err := range src.Records(ctx, lot) {
			if err != nil {
				return nil, fmt.Errorf("records of lot %s: %w", lot, err)
			}
			if len(r.PublicKey) > 0 {
				a.key(lot, r)
			}
		}
	}
	return a.report, a.sharedFactors(ctx)
}

// owner is a KeyOwner that a million of can be kept.
type owner struct {
	lot  string // shared by all of the lot
	row  int
	name string
	sum  [sha256.Size]byte
}

func (o owner) public() KeyOwner {
	return KeyOwner{o.lot, o.row, o.name, hex.EncodeToString(o.sum[:])}
}

type auditor struct {
	report *KeyAudit
	owners []owner
	seen   map[[sha256.Size]byte]int // SPKI to its first owner
	first  map[int]int               // a first owner to its finding
	weak   map[string]bool
	moduli []*big.Int
	holder []int // of each modulus: index of its owner
}

func (a *auditor) find(kind string, o owner, format string, args ...any) {
	a.report.Findings = append(a.report.Findings, KeyFinding{kind, fmt.Sprintf(format, args...), []KeyOwner{o.public()}})
}

// key checks what a key by itself can show.
func (a *auditor) key(lot string, r *pipeline.Record) {
	a.report.Keys++
	o := owner{lot, r.Row, r.Identity.Name(), sha256.Sum256(r.PublicKey)}
	if index, ok := a.seen[o.sum]; ok {
		a.duplicate(index, o)
		return
	}
	a.seen[o.sum] = len(a.owners)
	a.owners = append(a.owners, o)
	pub, err := x509.ParsePKIXPublicKey(r.PublicKey)
	if err != nil {
		a.find(FindingUnreadable, o, "not a public key: %v", err)
		return
	}
	if got := algorithmOf(pub); r.Algorithm != "" && got != r.Algorithm {
		a.find(FindingSize, o, "the key is %s, recorded is %s", got, r.Algorithm)
	}
	if key, ok := pub.(*rsa.PublicKey); ok {
		a.report.RSA++
		a.rsa(o, key)
		a.moduli, a.holder = append(a.moduli, key.N), append(a.holder, len(a.owners)-1)
	}
}

func (a *auditor) duplicate(index int, o owner) {
	if i, ok := a.first[index]; ok {
		a.report.Findings[i].Owners = append(a.report.Findings[i].Owners, o.public())
		return
	}
	a.first[index] = len(a.report.Findings)
	a.find(FindingDuplicate, a.owners[index], "devices have the same key")
	a.duplicate(index, o)
}

// algorithmOf names a key as the design does.
func algorithmOf(pub any) string {
	switch pub := pub.(type) {
	case ed25519.PublicKey:
		return "ed25519"
	case *ecdsa.PublicKey:
		return "ecdsa-" + strings.ToLower(strings.ReplaceAll(pub.Params().Name, "-", ""))
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa-%d", pub.N.BitLen())
	}
	return fmt.Sprintf("%T", pub)
}

func (a *auditor) rsa(o owner, key *rsa.PublicKey) {
	if bits := key.N.BitLen(); bits < 2048 {
		a.find(FindingSize, o, "an RSA key of %d bits; 2048 is the least", bits)
	}
	if key.E < 65537 || key.E%2 == 0 {
		a.find(FindingExponent, o, "an RSA exponent of %d; 65537 is usual", key.E)
	}
	if factor := easyFactor(key.N); factor != "" {
		a.find(FindingFactor, o, "the modulus can be factored: %s", factor)
	}
	if roca(key.N) {
		a.find(FindingROCA, o, "the modulus has the structure of vulnerable Infineon chips (CVE-2017-15361)")
	}
	if len(a.weak) > 0 && a.weak[debianSum(key.N)] {
		a.find(FindingWeakList, o, "the key is on a list of known keys")
	}
}

// load reads one list of known keys.
func (a *auditor) load(list io.Reader) error {
	if a.weak == nil {
		a.weak = map[string]bool{}
	}
	lines := bufio.NewScanner(list)
	for number := 1; lines.Scan(); number++ {
		line := strings.ToLower(strings.TrimSpace(lines.Text()))
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if _, err := hex.DecodeString(line); err != nil || len(line) < 20 {
			return pipeline.WithHint(fmt.Errorf("line %d of the list of weak keys is not a hash: %.40q", number, line),
				"the list has the form of Debian's openssl-blacklist")
		}
		a.weak[line[len(line)-20:]] = true
	}
	return lines.Err()
}

// debianSum is a modulus as openssl-blacklist lists it.
func debianSum(n *big.Int) string {
	sum := sha1.Sum(fmt.Appendf(nil, "Modulus=%X\n", n)) //nolint:gosec // the list's form
	return hex.EncodeToString(sum[:])[20:]
}

// sharedFactors runs the batch GCD and names the devices behind what it finds.
func (a *auditor) sharedFactors(ctx context.Context) error {
	// The same modulus with two exponents would be its own shared factor.
	unique := map[string]int{}
	var moduli []*big.Int
	var holder []int
	for i, n := range a.moduli {
		if other, ok := unique[string(n.Bytes())]; ok {
			a.findPair(other, a.holder[i], "devices have the same RSA modulus")
			continue
		}
		unique[string(n.Bytes())] = a.holder[i]
		moduli, holder = append(moduli, n), append(holder, a.holder[i])
	}
	hits, err := batchGCD(ctx, moduli)
	if err != nil {
		return err
	}
	for i, x := range hits {
		for _, y := range hits[i+1:] {
			if new(big.Int).GCD(nil, nil, moduli[x], moduli[y]).Cmp(big.NewInt(1)) > 0 {
				a.findPair(holder[x], holder[y], "RSA moduli share a prime: both private keys can be computed")
			}
		}
	}
	return nil
}

func (a *auditor) findPair(x, y int, text string) {
	owners := []KeyOwner{a.owners[x].public(), a.owners[y].public()}
	if slices.ContainsFunc(a.report.Findings, func(f KeyFinding) bool {
		return f.Kind == FindingSharedFactor && f.Text == text && slices.Equal(f.Owners, owners)
	}) {
		return
	}
	a.report.Findings = append(a.report.Findings, KeyFinding{FindingSharedFactor, text, owners})
}
