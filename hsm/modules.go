//go:build cgo

package hsm

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"sync"

	"github.com/miekg/pkcs11"
)

// Modules are the PKCS#11 modules that a process has loaded, and its logins to
// their tokens. Whoever opens a token by the same Modules shares both: a module
// is initialised once, a PIN is asked for once, and C_Login is called once,
// because tokens count tries. A module stays initialised until Close.
//
// Without Modules ([Config.Modules] is nil) each opening has them to itself.
type Modules struct {
	shared bool // modules outlive who uses them, until Close

	mu     sync.Mutex // guards loaded and the users of each
	loaded map[string]*library
}

// NewModules returns Modules that a process shares. Close them at its end.
func NewModules() *Modules { return &Modules{shared: true, loaded: map[string]*library{}} }

// modules returns the Modules that cfg wants to be used.
func (c *Config) modules() *Modules {
	if c.Modules != nil {
		return c.Modules
	}
	return &Modules{loaded: map[string]*library{}}
}

// open returns the module that u names, loaded and initialised.
func (m *Modules) open(ctx context.Context, u *URI, cfg *Config) (*module, error) {
	path, err := u.module()
	if err != nil {
		return nil, err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		real = path
	}
	key := real + "\x00" + u.InitArgs
	m.mu.Lock()
	defer m.mu.Unlock()
	lib := m.loaded[key]
	if lib == nil {
		if lib, err = loadLibrary(ctx, path, u.InitArgs, cfg.timeout()); err != nil {
			return nil, err
		}
		m.loaded[key] = lib
	}
	lib.users++
	return &module{library: lib, modules: m, key: key, timeout: cfg.timeout(), log: cfg.log()}, nil
}

// release ends one use of a module, and the module with the last one if nobody
// shares it.
func (m *Modules) release(mod *module) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !mod.closed {
		mod.closed = true
		mod.users--
	}
	if m.shared || mod.users > 0 || m.loaded[mod.key] != mod.library {
		return nil
	}
	return m.end(mod.key, mod)
}

// Close ends all modules. A module that hangs in it is left to the end of the
// process.
func (m *Modules) Close() error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var problems []error
	for key, lib := range m.loaded {
		problems = append(problems, m.end(key, &module{library: lib, timeout: farewell}))
	}
	return errors.Join(problems...)
}

// end finalises a module; m.mu is held.
func (m *Modules) end(key string, mod *module) error {
	if err := mod.finalise(); err != nil {
		return err
	}
	delete(m.loaded, key)
	return nil
}

// logins are what a process knows of the tokens of one module. They are by
// token URI, as slots are renumbered.
type logins struct {
	// opening is held while a session logs in, so that C_Login is called once.
	// It guards the rest.
	opening sync.Mutex
	pins    map[string][]byte
	refused map[string]refusal
	parked  map[string]*session // a session that keeps the process logged in between two uses
}

// refusal is an answer to C_Login after which nobody tries again.
type refusal struct {
	err error
	pin []byte // that was refused; nil for a PIN pad
}

// pinFor returns the PIN for a token, which is asked for where it is not known.
// It is nil where the token needs none of us. The caller doesn't wipe it.
func (l *library) pinFor(ctx context.Context, cfg *Config, u *URI, token pkcs11.TokenInfo) error {
	if token.Flags&flagLoginRequired == 0 || token.Flags&flagPINPad != 0 {
		return nil
	}
	name := tokenURI(token)
	l.opening.Lock()
	defer l.opening.Unlock()
	last, wasRefused := l.refused[name]
	if _, known := l.pins[name]; known && !wasRefused {
		return nil
	}
	if wasRefused && u.PINSource == "" && u.PINValue == "" {
		return last.err // a person is not asked again in one start
	}
	if err := checkPIN(token); err != nil {
		return err
	}
	pin, err := cfg.pin(ctx, u, trimmed(token.Label))
	switch {
	case err != nil:
		return err
	case pin == nil:
		return refused("name a file with pin-source in the URI", "the token %s needs a PIN", trimmed(token.Label))
	case wasRefused && bytes.Equal(pin, last.pin):
		Wipe(pin)
		return last.err
	}
	Wipe(l.pins[name])
	delete(l.refused, name) // another PIN than the one that was refused
	l.pins[name] = pin
	return nil
}

// refuse remembers that C_Login was answered so that it must not be called again.
func (l *logins) refuse(name string, err error) {
	l.refused[name] = refusal{err: err, pin: l.pins[name]}
	delete(l.pins, name)
}

// forget wipes the PINs.
func (l *logins) forget() {
	l.opening.Lock()
	defer l.opening.Unlock()
	for _, pin := range l.pins {
		Wipe(pin)
	}
	for _, r := range l.refused {
		Wipe(r.pin)
	}
	clear(l.pins)
	clear(l.refused)
	clear(l.parked)
}
