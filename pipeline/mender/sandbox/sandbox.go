// Package sandbox is a Mender device-authentication server for trials,
// training and tests. It answers as the real service does, oddities included:
// a conflict whose auth_sets is null, a Location that names a device which does
// not exist, deletions that finish later, errors after which the device is
// stored all the same. It speaks TLS with a CA of its own, accepts a real
// mender-client, misbehaves on request, and holds a million devices in memory.
//
// It knows one tenant and no users but its own, and it is no place for
// production keys: its CA key and its token lie in plain files.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Config says how a Sandbox behaves. The zero value is a patient server without
// faults, limits or memory beyond its process.
type Config struct {
	// Dir keeps the CA, the token's secret and the devices, so that a sandbox
	// that is stopped and started again is the same server. It is made with mode
	// 0700 if it is missing. A kill loses at most the last 100 ms. Empty: nothing
	// is kept.
	Dir string
	// Faults is what goes wrong from the start; SetFaults changes it later.
	Faults Faults
	// MaxDevices is how many devices may be accepted. As on the real server,
	// preauthorizing goes on above it, and the surplus gets 401 in the field.
	// 0: no limit.
	MaxDevices int
	// Version is which service it answers like. Empty: Main.
	Version Version
	// TierLimits makes it a service with device tiers (standard, micro, system),
	// as hosted Mender and Mender Enterprise are; it holds how many devices of
	// each tier may be accepted, -1 for any number, which also counts for tiers
	// that it doesn't name. nil: a service without tiers, and MaxDevices counts.
	TierLimits map[string]int
	// InventoryLag is how long after its registration a device is known to the
	// inventory, which the real service tells by a queue.
	InventoryLag time.Duration
	// NoInventory makes the inventory's calls answer as a gateway does that has
	// no such service behind it.
	NoInventory bool
	// Webhook gets what happens to devices; without a URL nobody does.
	Webhook Webhook
	// Log gets one debug record for each request. nil: silence. It never holds
	// tokens or keys.
	Log *slog.Logger
	// TokenLife is how long a management token is valid. 0: 7 days, as useradm
	// grants.
	TokenLife time.Duration
	// Names are further DNS names and IP addresses for the server's certificate,
	// for a sandbox that serves a training room.
	Names []string
	// CertLife is how long the server's certificate is valid from the start. 0: as
	// long as the CA; negative: it has expired already.
	CertLife time.Duration
	// Decommission is how long a deleted device goes on existing. 0: it is gone
	// with the answer.
	Decommission time.Duration
	// Seed fixes the ids and the order of random faults.
	Seed uint64
	// User and Password are accepted by the login endpoint. An empty User
	// refuses every login.
	User, Password string
	// Roles are those of the token's user, as Enterprise has them; nil: a server
	// without roles.
	Roles []string
}

// Sandbox is the server. Its methods may be called at any time, from any
// goroutine.
type Sandbox struct {
	log       *slog.Logger
	cfg       Config // immutable after New
	store     *store
	tokens    *tokens
	authority *authority
	faults    atomic.Pointer[injector]
	stats     stats
	hook      *hook // nil without a webhook
	handler   http.Handler
}

// New makes a sandbox with its CA, a server certificate for 127.0.0.1, ::1,
// localhost and Config.Names, and a token. Close must be called when Config.Dir is set.
func New(cfg Config) (*Sandbox, error) {
	if cfg.TokenLife == 0 {
		cfg.TokenLife = 7 * 24 * time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Version == "" {
		cfg.Version = Main
	}
	s := &Sandbox{log: cfg.Log, cfg: cfg, store: newStore(cfg.Seed, cfg.Decommission, cfg.Version)}
	if cfg.Webhook.URL != "" {
		s.hook = newHook(cfg.Webhook, cfg.Version, cfg.Log)
		s.store.told = s.hook.tell
	}
	if err := s.restore(); err != nil {
		return nil, err
	}
	s.SetFaults(cfg.Faults)
	var err error
	if s.handler, err = s.routes(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// restore makes the server's secrets, or reads them and the devices from
// Config.Dir.
func (s *Sandbox) restore() error {
	if s.cfg.Dir == "" {
		kept, err := newSecrets(s.cfg.Seed)
		if err != nil {
			return err
		}
		return s.adopt(kept)
	}
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("the sandbox's folder: %w", err)
	}
	journal, err := openJournal(filepath.Join(s.cfg.Dir, journalName))
	if err != nil {
		return err
	}
	// The journal's lock also guards the secrets: one sandbox a folder.
	kept, err := loadSecrets(filepath.Join(s.cfg.Dir, secretsName), s.cfg.Seed)
	if err == nil {
		err = s.adopt(kept)
	}
	if err == nil {
		err = journal.replay(s.store)
	}
	if err != nil {
		return errors.Join(err, journal.close())
	}
	s.store.journal = journal
	return nil
}

func (s *Sandbox) adopt(kept *secrets) error {
	var err error
	if s.authority, err = newAuthority(kept, s.cfg.CertLife, s.cfg.Names); err != nil {
		return err
	}
	s.store.seed = kept.Seed
	s.tokens = newTokens(kept.TokenSecret, s.cfg.TokenLife)
	return nil
}

// Handler returns the server without TLS, for tests that bring their own
// listener or transport.
func (s *Sandbox) Handler() http.Handler { return s.handler }

// drain is how long requests in flight get to finish when Serve ends.
const drain = 5 * time.Second

// Serve answers TLS connections on ln until ctx ends, then lets the requests in
// flight finish for at most 5 s. It returns nil after ctx ended, and closes ln.
func (s *Sandbox) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler,
		TLSConfig:         s.authority.serverTLS(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	if s.hook != nil {
		s.hook.open(ctx)
	}
	ended := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		err := srv.Shutdown(grace)
		if errors.Is(err, context.DeadlineExceeded) {
			err = srv.Close()
		}
		ended <- err
	})
	err := srv.ServeTLS(ln, "", "")
	if stop() { // ctx is still alive: the listener failed
		return errors.Join(fmt.Errorf("the sandbox's listener: %w", err), srv.Close())
	}
	return <-ended
}

// Close writes what is still buffered, releases Config.Dir and ends what the
// webhook still waits for. Requests that come later are answered, but not kept.
func (s *Sandbox) Close() error {
	if s.hook != nil {
		s.hook.close()
	}
	return s.store.close()
}

// WriteFiles writes dir/ca.crt (PEM) and dir/token (0600), what a client needs.
// dir is made with mode 0700 if it is missing.
func (s *Sandbox) WriteFiles(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("the sandbox's folder: %w", err)
	}
	if err := writeFile(filepath.Join(dir, "ca.crt"), s.CACert(), 0o644); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, "token"), []byte(s.Token()+"\n"), 0o600)
}

// writeFile replaces a file in one step, so that a client which reads it again
// never sees half of it.
func writeFile(name string, data []byte, mode os.FileMode) error {
	tmp := name + ".new"
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(name), err)
	}
	if err := os.Rename(tmp, name); err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(name), err)
	}
	return nil
}

// CACert returns the CA's certificate in PEM.
func (s *Sandbox) CACert() []byte { return s.authority.caPEM }

// Token returns a fresh management token.
func (s *Sandbox) Token() string { return s.tokens.management(time.Now()) }

// Revoke makes every management token issued so far invalid. Token returns
// valid ones again; files written earlier hold a dead one.
func (s *Sandbox) Revoke() { s.tokens.revoke() }

// SetFaults replaces what goes wrong, from the next request on.
func (s *Sandbox) SetFaults(f Faults) { s.faults.Store(newInjector(f, s.cfg.Seed)) }
