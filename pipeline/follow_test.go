package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
)

type followKey struct{}

// TestFollow: a follower sees each device with its steps inside, what they
// ended with, and gets its context through to the server.
func TestFollow(t *testing.T) {
	w := newWorld(t, 3)
	var mu sync.Mutex
	told := map[string][]string{}
	line := w.line(3)
	line.Follow = func(ctx context.Context, rec *Record, from State) (context.Context, func(error)) {
		device := rec.Identity.Name()
		tell := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			told[device] = append(told[device], fmt.Sprintf(format, args...))
		}
		if inside := ctx.Value(followKey{}) == device; inside != (from != "") {
			t.Errorf("%q of %s begins with its device's context: %v", from, device, inside)
		}
		tell("%s begins", from)
		return context.WithValue(ctx, followKey{}, device), func(err error) { tell("%s ends %s %v", from, rec.State, err) }
	}
	line.Server = contextServer{t, line.Server, w.order}
	if err := line.Carry(t.Context(), never(), w.resumable()); err != nil {
		t.Fatal(err)
	}
	good := []string{
		" begins", "planned begins", "planned ends staged <nil>", "staged begins", "staged ends preauthorized <nil>",
		"preauthorized begins", "preauthorized ends released <nil>", " ends released <nil>",
	}
	bad := append(slices.Clone(good[:4]), "staged ends staged not this one", " ends failed <nil>")
	for i, id := range w.order {
		want := good
		if i == 0 {
			want = bad
		}
		if got := told[w.records[id].Identity.Name()]; !slices.Equal(got, want) {
			t.Errorf("device %d: %q, want %q", i, got, want)
		}
	}
}

// contextServer refuses the first device, and wants a follower's context.
type contextServer struct {
	t *testing.T
	Server
	order []IdentitySum
}

func (s contextServer) Preauthorize(ctx context.Context, req Preauth) (AuthSet, error) {
	if ctx.Value(followKey{}) != req.Identity.Name() {
		s.t.Error("the server does not get the follower's context")
	}
	if req.Identity.Sum() == s.order[0] {
		return AuthSet{}, errors.New("not this one")
	}
	return s.Server.Preauthorize(ctx, req)
}

// TestFollowNobody: without a follower nothing is allocated for it.
func TestFollowNobody(t *testing.T) {
	line, r, rec := &Line{}, &reins{}, &Record{}
	if n := testing.AllocsPerRun(100, func() {
		_, ended := line.follow(r, rec, Planned)
		ended(nil)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
