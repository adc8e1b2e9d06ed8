package station

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"keymill/cmd/keymill/internal/fault"
	"keymill/pipeline"
	"keymill/pipeline/mender"
)

// Boot is something that a lot's device did in the field.
type Boot struct {
	Time     time.Time         `json:"time"` // by the server's clock where it says
	Identity map[string]string `json:"identity"`
	Row      int               `json:"row"`
	// What is accepted, knocking (somebody asks with another key), pending,
	// rejected, missing, other-key, second-key, decommissioning, or wrong-identity.
	What string `json:"what"`
	// Advice says what to look at; "" for a device that has come up.
	Advice string `json:"advice,omitempty"`
}

// Watched is how a lot's devices stand in the field.
type Watched struct {
	Devices  int `json:"devices"`
	Accepted int `json:"accepted"`
	Waiting  int `json:"waiting"` // preauthorized, not seen yet
	Off      int `json:"off"`
	// Silent are devices that were released longer ago than was asked for and
	// have never been seen.
	Silent int `json:"silent"`
}

// WatchOptions say how a lot is watched.
type WatchOptions struct {
	// Every is the time between two looks. With a webhook it is how often what the
	// webhook has missed is looked for.
	Every time.Duration
	Once  bool // look once
	// Silent is how long ago a device must have been released to count as silent.
	Silent time.Duration
	// Listen is the address on which Mender's webhook is received; "" for none.
	// Secret is the file with the secret that signs it.
	Listen, SecretFile string
	// Ready is told the address when the webhook can be received; Told each thing
	// that happens. Both may be nil.
	Ready func(address string)
	Told  func(Boot)
}

// advice is what Mender's documentation says about devices that don't come up,
// by what the server shows.
func advice(what mender.Category) string {
	switch what {
	case mender.CatPreauthorized, mender.CatAccepted:
		return ""
	case mender.CatKnocking, mender.CatSecondKey, mender.CatOtherKey:
		return "a device asks with this identity and another key: its key file was not read and the client made a new one, another image is on the medium, or two boards have one identity. Look at /data/mender/mender-agent.pem on it: owner root, mode 0600, PEM"
	case mender.CatPending:
		return "the device is there with the right key, but not preauthorized: accept it, or run retry"
	case mender.CatRejected:
		return "somebody has rejected the device on the server"
	case mender.CatDeleting, mender.CatMissing:
		return "the server doesn't know the device any more: somebody has removed it"
	}
	return "look at the device on the server"
}

const wrongIdentity = "wrong-identity"

const identityAdvice = "the device asks with the right key and another identity: a MAC in capitals or with dashes, another interface's MAC, an attribute too many or too few. Compare what its identity script prints with the manifest"

// watcher follows the first boots of one lot.
type watcher struct {
	*Lot
	opts WatchOptions

	mu     sync.Mutex
	last   map[int]string // guarded by mu; by row: what was told last
	strays map[string]bool
	poke   chan struct{} // something happened; look at once
}

// Watch follows a lot's devices from their preauthorization to their first boot,
// until all have come up: it looks at the server every now and then, for many
// devices in one request, and at once when Mender's webhook tells of a device.
func (l *Lot) Watch(ctx context.Context, o WatchOptions) (Watched, error) {
	var err error
	if l.Server == nil {
		if l.Server, err = l.opts.OpenServer(l.Config, l.Log); err != nil {
			return Watched{}, err
		}
	}
	w := &watcher{Lot: l, opts: o, last: map[int]string{}, strays: map[string]bool{}, poke: make(chan struct{}, 1)}
	stop, err := w.receive(ctx)
	if err != nil {
		return Watched{}, err
	}
	defer stop()
	for {
		began := time.Now()
		found, err := w.look(ctx)
		if err != nil || o.Once || found.Accepted == found.Devices {
			return found, err
		}
		// A burst of events is answered by one look, and looking never takes more
		// than a fifth of the time.
		rest := max(watchRest, 4*time.Since(began))
		if err := w.wait(ctx, nil, rest); err != nil {
			return found, err
		}
		if err := w.wait(ctx, w.poke, o.Every-rest); err != nil {
			return found, err
		}
	}
}

// watchRest is the least time between two looks.
const watchRest = time.Second

// wait waits for so long, or until something happened.
func (w *watcher) wait(ctx context.Context, poke <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-poke:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// receive serves the webhook until stop is called.
func (w *watcher) receive(ctx context.Context) (stop func(), err error) {
	if w.opts.Listen == "" {
		return func() {}, nil
	}
	if err := w.Lot.opts.Settings.Env.GuardSecret("the webhook's secret", w.opts.SecretFile); err != nil {
		return nil, err
	}
	secret, err := os.ReadFile(w.opts.SecretFile)
	if err == nil && len(trimSecret(secret)) == 0 {
		err = errors.New("the webhook's secret is empty")
	}
	if err != nil {
		return nil, fault.As(fault.Usage, pipeline.WithHint(err, "Put the secret of Mender's webhook into the file that --webhook-secret-file names."))
	}
	var listener net.ListenConfig
	ln, err := listener.Listen(ctx, "tcp", w.opts.Listen)
	if err != nil {
		return nil, fault.As(fault.Usage, pipeline.WithHint(err, "Name another address with --webhook."))
	}
	server := &http.Server{Handler: mender.NewWebhook(trimSecret(secret), w.happened), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(ln) // it ends by Close
	}()
	if w.opts.Ready != nil {
		w.opts.Ready(ln.Addr().String())
	}
	return func() {
		_ = server.Close()
		<-ended
	}, nil
}

func trimSecret(secret []byte) []byte {
	for len(secret) > 0 && (secret[len(secret)-1] == '\n' || secret[len(secret)-1] == '\r') {
		secret = secret[:len(secret)-1]
	}
	return secret
}

// happened makes the watcher look: the event is a hint, the server's listing is
// what counts.
func (w *watcher) happened(*mender.WebhookEvent) {
	select {
	case w.poke <- struct{}{}:
	default: // it will look anyway
	}
}

// look compares all devices with the server and tells what is new.
func (w *watcher) look(ctx context.Context) (Watched, error) {
	var found Watched
	var queue []*pipeline.Record
	keys := map[keySum]*pipeline.Record{}
	expected := func(yield func(mender.Expected, error) bool) {
		for rec, err := range w.Ledger.Records(ctx, w.Name, pipeline.Preauthorized, pipeline.Released) {
			if err == nil {
				queue = append(queue, rec)
				keys[sumOf(rec.PublicKey)] = rec
			}
			var e mender.Expected
			if err == nil {
				e = mender.Expected{Identity: rec.Identity, SPKI: rec.PublicKey, DeviceID: rec.Auth.DeviceID}
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
	for f, err := range w.Server.VerifyEach(ctx, iter.Seq2[mender.Expected, error](expected)) {
		if err != nil {
			return found, err
		}
		rec := queue[0]
		queue = queue[1:]
		found.Devices++
		switch {
		case f.Ours == mender.StatusAccepted:
			found.Accepted++
		case f.Category == mender.CatPreauthorized || f.Category == mender.CatKnocking:
			found.Waiting++
			if w.opts.Silent > 0 && rec.State == pipeline.Released && time.Since(rec.Updated) > w.opts.Silent {
				found.Silent++
			}
		default:
			found.Off++
		}
		w.tell(rec, string(f.Category), f.Since, advice(f.Category))
	}
	return found, w.lookForStrays(ctx, keys)
}

// maxStrays bounds how many pending devices of the server are looked at.
const maxStrays = 5000

// lookForStrays looks among the server's pending devices for keys of this lot:
// such a device has booted, and reports another identity than the manifest has.
func (w *watcher) lookForStrays(ctx context.Context, keys map[keySum]*pipeline.Record) error {
	n := 0
	for dev, err := range w.Server.Devices(ctx, mender.StatusPending) {
		if err != nil {
			return err
		}
		if n++; n > maxStrays {
			break
		}
		for _, set := range dev.AuthSets {
			rec := keys[sumOf(set.SPKI)]
			if rec == nil || len(set.SPKI) == 0 || dev.Sum == rec.Identity.Sum() || w.strays[dev.ID] {
				continue
			}
			w.strays[dev.ID] = true
			said := "another one"
			if dev.Identity != nil {
				said = dev.Identity.String()
			}
			w.report(rec, wrongIdentity, set.Time, fmt.Sprintf("%s (it reported %s)", identityAdvice, said))
		}
	}
	return nil
}

// tell tells what is new about a device.
func (w *watcher) tell(rec *pipeline.Record, what string, at time.Time, advice string) {
	w.mu.Lock()
	last, seen := w.last[rec.Row]
	w.last[rec.Row] = what
	w.mu.Unlock()
	if last == what || (!seen && what == string(mender.CatPreauthorized)) {
		return
	}
	w.report(rec, what, at, advice)
}

func (w *watcher) report(rec *pipeline.Record, what string, at time.Time, advice string) {
	if w.opts.Told == nil {
		return
	}
	b := Boot{Time: at.UTC(), Identity: map[string]string{}, Row: rec.Row, What: what, Advice: advice}
	for _, attr := range rec.Identity {
		b.Identity[attr.Name] = attr.Value
	}
	w.opts.Told(b)
}
