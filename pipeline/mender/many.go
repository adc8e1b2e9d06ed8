package mender

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
)

// devicesByID asks for up to perPage devices in one request
// (POST /devices/search, which filters by ids). Devices that the server doesn't
// know are not in the result.
func (c *Client) devicesByID(ctx context.Context, ids []string) (map[string]*Device, *call, error) {
	body, err := json.Marshal(struct {
		ID []string `json:"id"`
	}{ids})
	if err != nil {
		return nil, &call{}, err
	}
	found := map[string]*Device{}
	k := &call{
		method: http.MethodPost, path: apiPath + "/devices/search",
		query: url.Values{"per_page": {strconv.Itoa(perPage)}}.Encode(), send: body,
		settles: []int{http.StatusOK}, maxBody: maxListBody, timeout: 4 * c.timeout,
		decode: func(a *answer) error {
			devices, err := parseDevices(a.body)
			if err != nil {
				return err
			}
			clear(found)
			for _, dev := range devices {
				found[dev.ID] = dev
			}
			return nil
		},
	}
	err = c.do(ctx, k)
	return found, k, err
}

// looked is an expected device and what the server has under its id, nil for
// nothing.
type looked struct {
	Expected
	dev *Device
}

// lookAll asks for all expected devices, perPage in one request, and yields them
// in order. Those without an id come with nothing.
func (c *Client) lookAll(ctx context.Context, expected iter.Seq2[Expected, error]) iter.Seq2[looked, error] {
	return func(yield func(looked, error) bool) {
		for chunk, err := range ahead(ctx, pagesAhead, chunks(expected, perPage), c.lookChunk) {
			if err != nil {
				yield(looked{}, err)
				return
			}
			for _, l := range chunk {
				if !yield(l, nil) {
					return
				}
			}
		}
	}
}

func (c *Client) lookChunk(ctx context.Context, chunk []Expected) ([]looked, error) {
	var ids []string
	for _, e := range chunk {
		if e.DeviceID != "" {
			ids = append(ids, e.DeviceID)
		}
	}
	var found map[string]*Device
	if len(ids) > 0 {
		var err error
		if found, _, err = c.devicesByID(ctx, ids); err != nil {
			return nil, err
		}
	}
	all := make([]looked, len(chunk))
	for i, e := range chunk {
		all[i] = looked{Expected: e, dev: found[e.DeviceID]}
	}
	return all, nil
}

// chunks yields what comes in, n together.
func chunks[T any](in iter.Seq2[T, error], n int) iter.Seq2[[]T, error] {
	return func(yield func([]T, error) bool) {
		var chunk []T
		for item, err := range in {
			if err != nil {
				yield(nil, err)
				return
			}
			if chunk = append(chunk, item); len(chunk) == n {
				if !yield(chunk, nil) {
					return
				}
				chunk = nil
			}
		}
		if len(chunk) > 0 {
			yield(chunk, nil)
		}
	}
}

// looksAtOnce is how many looks go out before further ones wait to be gathered.
const looksAtOnce = 2

// looker gathers questions about single devices that are asked at the same time:
// while looksAtOnce of them are under way, the others wait, and then go out
// together in one request. So nobody waits for company, and under a quota a
// thousand conflicts cost three requests instead of a thousand.
type looker struct {
	c *Client

	mu      sync.Mutex
	waiting []*gathering // guarded by mu; all but the last are full
	out     int          // guarded by mu; how many are under way
}

// gathering is one request about several devices. Its results are written
// before done is closed.
type gathering struct {
	ids    map[string]bool // guarded by looker.mu until it goes out
	askers int             // guarded by looker.mu; who still wants to know
	sent   bool            // guarded by looker.mu
	gone   chan struct{}   // closed when nobody wants to know any more
	done   chan struct{}

	found map[string]*Device
	call  *call
	err   error
}

// device asks for one device by id, as Client.Device does, together with others
// who ask now. The call is shared with them.
func (l *looker) device(ctx context.Context, id string) (*Device, *call, error) {
	g := l.join(ctx, id)
	select {
	case <-g.done:
	case <-ctx.Done():
		l.leave(g)
		return nil, &call{}, ctx.Err()
	}
	switch {
	case g.err != nil && len(g.ids) > 1 && !isOutage(g.err):
		return l.c.device(ctx, id) // perhaps another device is the trouble
	case g.err != nil:
		return nil, g.call, g.err
	case g.found[id] == nil:
		return nil, g.call, ErrNotFound
	}
	return g.found[id], g.call, nil
}

// join adds a question to the gathering that goes out next.
func (l *looker) join(ctx context.Context, id string) *gathering {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.waiting)
	if n == 0 || len(l.waiting[n-1].ids) >= perPage {
		l.waiting = append(l.waiting, &gathering{ids: map[string]bool{}, gone: make(chan struct{}), done: make(chan struct{})})
		n++
	}
	g := l.waiting[n-1]
	g.ids[id] = true
	g.askers++
	l.send(ctx)
	return g
}

// leave is for askers whose context ended. The last one cuts the request off and
// waits for its end, so that nothing is left running.
func (l *looker) leave(g *gathering) {
	l.mu.Lock()
	g.askers--
	last := g.askers == 0
	if last {
		close(g.gone)
		l.waiting = slices.DeleteFunc(l.waiting, func(o *gathering) bool { return o == g })
	}
	sent := g.sent
	l.mu.Unlock()
	if last && sent {
		<-g.done
	}
}

// send lets gatherings go out, looksAtOnce at once. Each ends with the last who
// wants to know, not with the one who happened to come first. l.mu must be held.
func (l *looker) send(ctx context.Context) {
	for len(l.waiting) > 0 && l.out < looksAtOnce {
		g := l.waiting[0]
		l.waiting = l.waiting[1:]
		g.sent = true
		l.out++
		ids := slices.Collect(maps.Keys(g.ids))
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		go func() {
			select {
			case <-g.gone:
			case <-g.done:
			}
			cancel()
		}()
		go func() {
			g.found, g.call, g.err = l.ask(ctx, ids)
			l.mu.Lock()
			l.out--
			l.send(ctx)
			l.mu.Unlock()
			close(g.done)
		}()
	}
}

func (l *looker) ask(ctx context.Context, ids []string) (map[string]*Device, *call, error) {
	if len(ids) > 1 {
		return l.c.devicesByID(ctx, ids)
	}
	dev, k, err := l.c.device(ctx, ids[0])
	if errors.Is(err, ErrNotFound) {
		return nil, k, nil
	}
	return map[string]*Device{ids[0]: dev}, k, err
}
