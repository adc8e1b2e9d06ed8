//go:build cgo

package hsm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/miekg/pkcs11"
	"golang.org/x/sync/semaphore"
)

// allCalls is the weight that re-initialisation takes: nobody else is in the module then.
const allCalls = 1 << 30

// library is a loaded PKCS#11 module. Its state belongs to the process.
type library struct {
	path     string
	digest   string // SHA-256 of the file, hexadecimal; "" if it can't be read
	initArgs []byte // NUL-terminated, nil if there are none
	ctx      *pkcs11.Ctx
	direct   *direct // nil where there is none
	info     pkcs11.Info
	owned    bool // initialised by us, so finalised by us; changed only while alone in the module
	users    int  // guarded by Modules.mu
	logins

	// calls is held with weight 1 by whoever is inside the module.
	calls *semaphore.Weighted
	// generation counts initialisations; sessions of an earlier one are dead.
	generation atomic.Int64
	full       atomic.Bool // see kind
	reinit     sync.Mutex  // held while re-initialising
}

// module is one user's hold of a library.
type module struct {
	*library
	modules *Modules
	key     string // of the library in modules
	timeout time.Duration
	log     *slog.Logger
	closed  bool // guarded by Modules.mu
}

// openModule loads and initialises the module that u names, unless the process
// has it already.
func openModule(ctx context.Context, u *URI, cfg *Config) (*module, error) {
	return cfg.modules().open(ctx, u, cfg)
}

func loadLibrary(ctx context.Context, path, initArgs string, timeout time.Duration) (*library, error) {
	m := &module{timeout: timeout, library: &library{path: path, calls: semaphore.NewWeighted(allCalls), logins: logins{
		pins: map[string][]byte{}, refused: map[string]refusal{}, parked: map[string]*session{},
	}}}
	if initArgs != "" {
		m.initArgs = append([]byte(initArgs), 0)
	}
	blameCrashes(path)
	loaded, err := invoke(ctx, m, func() (*pkcs11.Ctx, error) { return pkcs11.New(path), nil }, nil)
	if err == nil && loaded == nil {
		return nil, refused("check that the file is the vendor's module for this architecture, with all libraries that it needs (ldd shows them)",
			"%s can't be loaded as a PKCS#11 module: %s", path, loadProblem(path))
	}
	if err == nil {
		m.ctx, m.direct = loaded, findDirect(path)
		m.info, err = invoke(ctx, m, func() (pkcs11.Info, error) {
			err := m.initialize()
			m.owned = err == nil
			if err != nil && !isCKR(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
				return pkcs11.Info{}, err
			}
			return m.ctx.GetInfo()
		}, nil)
	}
	if err != nil {
		return nil, gone("see the module's own configuration and log; `pkcs11-tool --module "+path+" -L` should list its tokens",
			"the PKCS#11 module %s doesn't start: %w", path, err)
	}
	m.digest = fileDigest(path)
	return m.library, nil
}

// fileDigest returns the SHA-256 of a file, "" where it can't be read.
func fileDigest(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return ""
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func (l *library) initialize() error {
	if l.initArgs == nil {
		return l.ctx.Initialize()
	}
	return l.ctx.Initialize(pkcs11.InitializeWithReserved(unsafe.Pointer(&l.initArgs[0])))
}

// enter waits until weight more may be inside the module.
func (m *module) enter(ctx context.Context, weight int64) error {
	if ctx.Err() == nil && m.calls.TryAcquire(weight) {
		return nil
	}
	limited, cancel := m.limit(ctx)
	defer cancel()
	if m.calls.Acquire(limited, weight) != nil {
		return context.Cause(limited)
	}
	return nil
}

func (m *module) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, m.timeout, fmt.Errorf("%w (after %v)", errHung, m.timeout))
}

// invoke runs f, which calls the module. It returns before f does when ctx ends
// or the module hangs; abandoned (may be nil) then gets f's result when there is one.
func invoke[T any](ctx context.Context, m *module, f func() (T, error), abandoned func(T, error)) (T, error) {
	if err := m.enter(ctx, 1); err != nil {
		var zero T
		return zero, err
	}
	return invokeEntered(ctx, m, 1, f, abandoned)
}

// invokeEntered is invoke after enter. It leaves the module when f returns.
func invokeEntered[T any](ctx context.Context, m *module, weight int64, f func() (T, error), abandoned func(T, error)) (T, error) {
	limited, cancel := m.limit(ctx)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	done := make(chan result) // unbuffered: either the caller takes the result ..
	go func() {
		var r result
		r.value, r.err = f()
		m.calls.Release(weight)
		select {
		case done <- r:
		case <-limited.Done(): // .. or it has left
			if abandoned != nil && m.calls.TryAcquire(1) { // else the module is being finalised, with all sessions
				abandoned(r.value, r.err)
				m.calls.Release(1)
			}
		}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-limited.Done():
		var zero T
		return zero, context.Cause(limited)
	}
}

// reinitialise finalises and initialises the module, unless that was done since
// generation seen. All sessions are dead afterwards.
func (m *module) reinitialise(ctx context.Context, seen int64) error {
	m.reinit.Lock()
	defer m.reinit.Unlock()
	if m.generation.Load() != seen {
		return nil
	}
	if err := m.enter(ctx, allCalls); err != nil {
		return err
	}
	_, err := invokeEntered(ctx, m, allCalls, func() (struct{}, error) {
		_ = m.ctx.Finalize() // a module that is gone can't say so
		err := m.initialize()
		m.owned = err == nil
		if isCKR(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
			err = nil
		}
		m.generation.Add(1)
		return struct{}{}, err
	}, nil)
	return err
}

// close ends this use of the module.
func (m *module) close() error { return m.modules.release(m) }

// finalise ends the module. Where a call hangs in it, it is left alone:
// finalising under a running call is undefined. It waits for a module that
// hangs in C_Finalize as long as for any call, but not longer than farewell.
func (m *module) finalise() error {
	if !m.calls.TryAcquire(allCalls) {
		return errHung
	}
	m.forget()
	done := make(chan error, 1)
	go func() { // which stays in the module, should that hang
		var err error
		if m.owned {
			err = m.ctx.Finalize()
		}
		m.ctx.Destroy()
		m.calls.Release(allCalls)
		done <- err
	}()
	timer := time.NewTimer(min(farewell, m.timeout))
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		if m.log != nil {
			m.log.Warn("the PKCS#11 module doesn't end: it is left to the end of the program", "module", m.path)
		}
		return nil // all that was asked of the module is done
	}
}

func (m *module) describe() (name, version string) {
	name = fmt.Sprintf("%s (%s, %s)", filepath.Base(m.path), trimmed(m.info.ManufacturerID), trimmed(m.info.LibraryDescription))
	return name, fmt.Sprintf("%d.%d", m.info.LibraryVersion.Major, m.info.LibraryVersion.Minor)
}
