package reports

import (
	"context"
	"fmt"
	"math/big"
)

// batchSize is how many moduli one product tree holds: the tree of 16,384 RSA
// keys of 2048 bits takes about 60 MB, its squares twice that.
const batchSize = 16384

var one = big.NewInt(1)

// batchGCD returns the indexes of the moduli, all different, that share a
// factor with another one. It is Bernstein's batch GCD: the product of all
// moduli, reduced by the square of each with a remainder tree. More than
// batchSize of them are taken in batches, each also against the others.
func batchGCD(ctx context.Context, moduli []*big.Int) ([]int, error) {
	shared := make([]bool, len(moduli))
	for i := 0; i < len(moduli); i += batchSize {
		mine := moduli[i:min(i+batchSize, len(moduli))]
		tree, err := productTree(ctx, mine)
		if err != nil {
			return nil, err
		}
		if err := within(ctx, tree, shared[i:]); err != nil {
			return nil, err
		}
		for j := 0; j < len(moduli); j += batchSize {
			if j == i {
				continue
			}
			other, err := productTree(ctx, moduli[j:min(j+batchSize, len(moduli))])
			if err != nil {
				return nil, err
			}
			if err := across(ctx, tree, other.root(), shared[i:]); err != nil {
				return nil, err
			}
		}
	}
	var hits []int
	for i, hit := range shared {
		if hit {
			hits = append(hits, i)
		}
	}
	return hits, nil
}

// tree holds products level by level: the moduli first, the whole product last.
type tree [][]*big.Int

func (t tree) root() *big.Int { return t[len(t)-1][0] }

func productTree(ctx context.Context, leaves []*big.Int) (tree, error) {
	t := tree{leaves}
	for level := leaves; len(level) > 1; {
		next := make([]*big.Int, 0, (len(level)+1)/2)
		for i := 0; i < len(level); i += 2 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if i+1 == len(level) {
				next = append(next, level[i])
				continue
			}
			next = append(next, new(big.Int).Mul(level[i], level[i+1]))
		}
		t = append(t, next)
		level = next
	}
	return t, nil
}

// within marks the moduli that share a factor with another of the same tree:
// (product mod N^2) / N has a common factor with N.
func within(ctx context.Context, t tree, shared []bool) error {
	rest := []*big.Int{t.root()}
	for level := len(t) - 2; level >= 0; level-- {
		next := make([]*big.Int, len(t[level]))
		for i, n := range t[level] {
			if err := ctx.Err(); err != nil {
				return err
			}
			square := new(big.Int).Mul(n, n)
			if rest[i/2].Cmp(square) < 0 {
				next[i] = rest[i/2]
			} else {
				next[i] = square.Rem(rest[i/2], square)
			}
		}
		rest = next
	}
	for i, n := range t[0] {
		if q := new(big.Int).Quo(rest[i], n); q.GCD(nil, nil, q, n).Cmp(one) != 0 && len(t) > 1 {
			shared[i] = true
		}
	}
	return nil
}

// across marks the moduli that share a factor with product.
func across(ctx context.Context, t tree, product *big.Int, shared []bool) error {
	rest := []*big.Int{new(big.Int).Rem(product, t.root())}
	for level := len(t) - 2; level >= 0; level-- {
		next := make([]*big.Int, len(t[level]))
		for i, n := range t[level] {
			if err := ctx.Err(); err != nil {
				return err
			}
			next[i] = new(big.Int).Rem(rest[i/2], n)
		}
		rest = next
	}
	for i, n := range t[0] {
		if new(big.Int).GCD(nil, nil, rest[i], n).Cmp(one) != 0 {
			shared[i] = true
		}
	}
	return nil
}

// smallPrimes are those below 168, by which ROCA is told (Nemec et al., CCS
// 2017) and which no RSA modulus may have as a factor.
func smallPrimes() []int64 {
	var primes []int64
	for n := int64(2); n < 168; n++ {
		if big.NewInt(n).ProbablyPrime(0) {
			primes = append(primes, n)
		}
	}
	return primes
}

// roca reports whether a modulus is a power of 65537 modulo every small prime,
// as those of the vulnerable library are; of other moduli about one in 10^8 is.
func roca(n *big.Int) bool {
	for _, p := range smallPrimes()[1:] { // 65537 is 1 modulo 2, as is every modulus
		if !inSubgroup(new(big.Int).Mod(n, big.NewInt(p)).Int64(), 65537%p, p) {
			return false
		}
	}
	return true
}

// inSubgroup reports whether x is a power of g modulo the prime p.
func inSubgroup(x, g, p int64) bool {
	for power, i := int64(1), int64(0); i < p; i++ {
		if power == x {
			return true
		}
		power = power * g % p
	}
	return false
}

// fermatRounds bounds the search for primes that lie close together.
const fermatRounds = 64

// easyFactor returns how a modulus falls to trial division or to Fermat's
// method, "" if it doesn't.
func easyFactor(n *big.Int) string {
	for _, p := range smallPrimes() {
		if new(big.Int).Mod(n, big.NewInt(p)).Sign() == 0 {
			return fmt.Sprintf("%d divides it", p)
		}
	}
	// n = a^2 - b^2 for an a just above its root, if its primes are close.
	a := new(big.Int).Sqrt(n)
	if new(big.Int).Mul(a, a).Cmp(n) < 0 {
		a.Add(a, one)
	}
	for range fermatRounds {
		b2 := new(big.Int).Mul(a, a)
		b2.Sub(b2, n)
		if b := new(big.Int).Sqrt(b2); b.Mul(b, b).Cmp(b2) == 0 {
			return "its primes are too close to each other"
		}
		a.Add(a, one)
	}
	return ""
}
