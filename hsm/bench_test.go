//go:build cgo

package hsm

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"
)

// benchBatch is how many keys one side makes before it is the other's turn.
const benchBatch = 256

// BenchmarkHSM says what keymill costs on top of the token. It makes P-256 keys
// in SoftHSM by turns: the whole cycle, as many callers as it asks for, against the loop that one
// would write first, with as many goroutines as sessions: generate, wrap,
// destroy, nothing unwrapped or compared. Taking turns, both see the same load
// of the machine. The share must be 90 % or more.
func BenchmarkHSM(b *testing.B) {
	for _, sessions := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("sessions=%d", sessions), func(b *testing.B) {
			cfg := newSoftHSM(b).config(b)
			cfg.Limits.Sessions = sessions
			source := mustOpen(b, ModeHSM, ECDSAP256, cfg).(*wrapped)
			var cycle, bare, cycleCPU, bareCPU time.Duration
			for b.Loop() {
				start, startCPU := time.Now(), cpuTime(b)
				wholeCycles(b, source)
				middle, middleCPU := time.Now(), cpuTime(b)
				bareLoops(b, source, sessions)
				cycle += middle.Sub(start)
				bare += time.Since(middle)
				cycleCPU += middleCPU - startCPU
				bareCPU += cpuTime(b) - middleCPU
			}
			keys := float64(b.N * benchBatch)
			b.ReportMetric(keys/cycle.Seconds(), "cycle-keys/s")
			b.ReportMetric(keys/bare.Seconds(), "bare-keys/s")
			b.ReportMetric(100*bare.Seconds()/cycle.Seconds(), "%share")
			b.ReportMetric(100*bareCPU.Seconds()/cycleCPU.Seconds(), "%cpu-share")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// cpuTime returns what the process has used of the processors: on a machine that
// others use too it tells more than the clock.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// share runs f benchBatch times in some goroutines.
func share(workers int, f func()) {
	var work sync.WaitGroup
	jobs := make(chan struct{}, benchBatch)
	for range benchBatch {
		jobs <- struct{}{}
	}
	close(jobs)
	for range workers {
		work.Go(func() {
			for range jobs {
				f()
			}
		})
	}
	work.Wait()
}

func wholeCycles(b *testing.B, source *wrapped) {
	share(source.AtOnce(), func() {
		private, _, err := source.Generate(b.Context(), "")
		if err != nil {
			b.Error(err)
		}
		Wipe(private)
	})
}

// bareLoops makes the same calls as a program that has nothing else in mind.
func bareLoops(b *testing.B, source *wrapped, sessions int) {
	held := make(chan *session, sessions)
	for range sessions {
		select {
		case s := <-source.pool.idle:
			held <- s
		case <-source.pool.spare:
			s, err := source.pool.open(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			held <- s
		}
	}
	way := kinds(ECDSAP256)[0]
	generate := []*pkcs11.Mechanism{pkcs11.NewMechanism(way.mechanism, nil)}
	wrap := []*pkcs11.Mechanism{pkcs11.NewMechanism(source.exit.wrapping.mechanism, nil)}
	private := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
	}
	share(sessions, func() {
		s := <-held
		pub, priv, err := s.GenerateKeyPair(s.handle, generate, way.public, private)
		if err == nil {
			_, err = s.WrapKey(s.handle, wrap, s.kek.object, priv)
		}
		if err = errors.Join(err, s.DestroyObject(s.handle, priv), s.DestroyObject(s.handle, pub)); err != nil {
			b.Error(err)
		}
		held <- s
	})
	for range sessions {
		source.pool.idle <- <-held
	}
}

// BenchmarkEntropy measures keys made of SoftHSM's random numbers, on all cores.
func BenchmarkEntropy(b *testing.B) {
	for _, alg := range []Algorithm{Ed25519, ECDSAP256} {
		b.Run(string(alg), func(b *testing.B) {
			source := mustOpen(b, ModeEntropy, alg, newSoftHSM(b).config(b))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					private, _, err := source.Generate(b.Context(), "")
					if err != nil {
						b.Error(err)
						return
					}
					Wipe(private)
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "keys/s")
		})
	}
}
