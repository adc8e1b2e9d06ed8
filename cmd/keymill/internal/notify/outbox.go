package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"keymill/cmd/keymill/internal/config"
	"keymill/cmd/keymill/internal/fault"
	"keymill/cmd/keymill/internal/files"
	"keymill/cmd/keymill/internal/metrics"
)

// Outbox keeps notifications on the disk until their receivers have taken
// them, so that neither a crash nor a receiver that is away loses one. What is
// told may be told twice; its ID is the same then.
type Outbox struct {
	dir     string
	targets []target
	timeout time.Duration // of one round of delivery
	log     *slog.Logger

	restUntil time.Time      // after a round that failed
	fails     int            // rounds that failed, one after the other; each rest is longer
	failures  map[string]int // by path; what failed often lets the others go first
}

// refusedError is a receiver's answer to one notification; another one may fare
// better.
type refusedError struct{ error }

// target is a receiver: the webhook or the hook command.
type target struct {
	name    string
	deliver func(ctx context.Context, n *Notification, body []byte) error
}

// outboxLife is how long a notification waits: a receiver that is away for
// longer is not coming back.
const outboxLife = 7 * 24 * time.Hour

// Rest leaves all receivers alone until then; the zero time lets them be tried
// at once.
func (o *Outbox) Rest(until time.Time) { o.restUntil = until }

// Place says where an outbox lies and what its receivers get.
type Place struct {
	Dir     string // of pending notifications
	HookDir string // that the hook runs in
	Env     config.Environ
	HookOut io.Writer // what the hook says
	Log     *slog.Logger
}

// Open prepares the receivers that are configured.
func Open(cfg config.NotifyConfig, p Place) (*Outbox, error) {
	o := &Outbox{dir: p.Dir, timeout: cfg.Timeout, log: p.Log, failures: map[string]int{}}
	web, err := newWebhook(cfg, p.Env)
	if err != nil {
		return nil, err
	}
	if web != nil {
		o.targets = append(o.targets, target{"webhook", web.deliver})
	}
	command, err := newHook(cfg, p.HookDir, p.Env, p.HookOut)
	if err != nil {
		return nil, err
	}
	if command != nil {
		o.targets = append(o.targets, target{"hook", command.deliver})
	}
	return o, nil
}

// Put makes a notification durable for every receiver.
func (o *Outbox) Put(n *Notification) error {
	for _, t := range o.targets {
		err := files.Write(filepath.Join(o.dir, files.SafeName(n.ID)+"."+t.name), func(w io.Writer) error {
			enc := json.NewEncoder(w)
			enc.SetEscapeHTML(false)
			return enc.Encode(n)
		})
		if err != nil {
			return fault.StorageOutage(err)
		}
	}
	return nil
}

// letter is a pending notification.
type letter struct {
	path string
	put  time.Time
	body []byte
	n    Notification
}

// pending lists what waits for a receiver: what failed least first, and then the
// oldest. What cannot be read is named *.unreadable, and waits no more.
func (o *Outbox) pending(name string) ([]letter, error) {
	paths, err := o.paths(name)
	if err != nil {
		return nil, err
	}
	var letters []letter
	for _, path := range paths {
		l := letter{path: path}
		info, err := os.Stat(path)
		if err == nil {
			l.put = info.ModTime()
			l.body, err = os.ReadFile(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // delivered meanwhile
		}
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(l.body, &l.n); err != nil {
			o.log.Error("a notification cannot be read", "file", path, "error", err)
			if err := os.Rename(path, path+".unreadable"); err != nil {
				return nil, err
			}
			continue
		}
		letters = append(letters, l)
	}
	slices.SortStableFunc(letters, func(a, b letter) int {
		return cmp.Or(cmp.Compare(o.failures[a.path], o.failures[b.path]), a.n.Time.Compare(b.n.Time))
	})
	return letters, nil
}

// paths lists the files of what waits for a receiver.
func (o *Outbox) paths(name string) (paths []string, err error) {
	entries, err := os.ReadDir(o.dir)
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") && filepath.Ext(entry.Name()) == "."+name {
			paths = append(paths, filepath.Join(o.dir, entry.Name()))
		}
	}
	return paths, err
}

// Count returns how many deliveries are pending. It may be called during a flush.
func (o *Outbox) Count() int {
	n := 0
	for _, t := range o.targets {
		if paths, err := o.paths(t.name); err == nil {
			n += len(paths)
		}
	}
	return n
}

// Flush delivers what is pending, within the outbox's timeout. What cannot be
// delivered stays, is logged, and is tried again later: telling people about the
// work must not keep anybody from doing it.
func (o *Outbox) Flush(ctx context.Context, now time.Time) {
	if now.Before(o.restUntil) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	fails := 0
	for _, t := range o.targets {
		if err := o.flushTo(ctx, t, now); err != nil {
			fails = o.fails + 1
			o.restUntil = now.Add(metrics.Rest << min(o.fails, 4))
			o.log.Warn("a notification was not taken; it will be told again", "receiver", t.name, "error", err)
		}
	}
	o.fails = fails
}

func (o *Outbox) flushTo(ctx context.Context, t target, now time.Time) error {
	letters, err := o.pending(t.name)
	if err != nil {
		return err
	}
	var failed error
	for _, l := range letters {
		err := t.deliver(ctx, &l.n, l.body)
		if err != nil {
			failed = err
			o.failures[l.path]++
			if now.Sub(l.put) < outboxLife {
				if _, refused := errors.AsType[*refusedError](err); refused && ctx.Err() == nil {
					continue
				}
				return err
			}
			o.log.Error("a notification is given up", "receiver", t.name, "id", l.n.ID, "error", err)
		}
		delete(o.failures, l.path)
		if err := os.Remove(l.path); err != nil {
			return err
		}
	}
	return failed
}
