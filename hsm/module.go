//go:build cgo

package hsm

import (
	"context"
	"fmt"
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

// module is a loaded PKCS#11 module. Its state belongs to the process: another
// user of the same file (crypto11, for the audit) shares it.
type module struct {
	path     string
	initArgs []byte // NUL-terminated, nil if there are none
	timeout  time.Duration
	ctx      *pkcs11.Ctx
	direct   *direct // nil where there is none
	info     pkcs11.Info
	owned    bool // initialised by us, so finalised by us; changed only while alone in the module

	// calls is held with weight 1 by whoever is inside the module.
	calls *semaphore.Weighted
	// generation counts initialisations; sessions of an earlier one are dead.
	generation atomic.Int64
	reinit     sync.Mutex // held while re-initialising
}

// openModule loads and initialises the module that u names.
func openModule(ctx context.Context, u *URI, timeout time.Duration) (*module, error) {
	path, err := u.module()
	if err != nil {
		return nil, err
	}
	m := &module{path: path, timeout: timeout, calls: semaphore.NewWeighted(allCalls)}
	if u.InitArgs != "" {
		m.initArgs = append([]byte(u.InitArgs), 0)
	}
	if m.ctx = pkcs11.New(path); m.ctx == nil {
		return nil, refused("check that the file is the vendor's module for this architecture, with all libraries that it needs (ldd shows them)",
			"%s can't be loaded as a PKCS#11 module", path)
	}
	m.direct = findDirect(path)
	m.info, err = invoke(ctx, m, func() (pkcs11.Info, error) {
		err := m.initialize()
		m.owned = err == nil
		if err != nil && !isCKR(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
			return pkcs11.Info{}, err
		}
		return m.ctx.GetInfo()
	}, nil)
	if err != nil {
		return nil, gone("see the module's own configuration and log; `pkcs11-tool --module "+path+" -L` should list its tokens",
			"the PKCS#11 module %s doesn't start: %w", path, err)
	}
	return m, nil
}

func (m *module) initialize() error {
	if m.initArgs == nil {
		return m.ctx.Initialize()
	}
	return m.ctx.Initialize(pkcs11.InitializeWithReserved(unsafe.Pointer(&m.initArgs[0])))
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

// close ends the use of the module. Where a call hangs in it, it is left alone:
// finalising under a running call is undefined.
func (m *module) close() error {
	if !m.calls.TryAcquire(allCalls) {
		return errHung
	}
	defer m.calls.Release(allCalls)
	var err error
	if m.owned {
		err = m.ctx.Finalize()
	}
	m.ctx.Destroy()
	return err
}

func (m *module) describe() (name, version string) {
	name = fmt.Sprintf("%s (%s, %s)", filepath.Base(m.path), m.info.ManufacturerID, m.info.LibraryDescription)
	return name, fmt.Sprintf("%d.%d", m.info.LibraryVersion.Major, m.info.LibraryVersion.Minor)
}
