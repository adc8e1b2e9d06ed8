package metrics

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"keymill/cmd/keymill/internal/config"
)

// TestPushRests: a Pushgateway that is away is asked for the first lot and at the
// end, not for each of the lots between.
func TestPushRests(t *testing.T) {
	asked := 0
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer gateway.Close()
	now := time.Now()
	m := New(config.MetricsConfig{Pushgateway: gateway.URL}, "line-3", now)
	for _, step := range []struct {
		after time.Duration
		last  bool
		asked int
	}{{0, false, 1}, {time.Second, false, 1}, {Rest, false, 2}, {Rest + time.Second, true, 3}} {
		err := m.Push(t.Context(), now.Add(step.after), step.last)
		if asked != step.asked {
			t.Errorf("after %v: %v, asked %d times, want %d", step.after, err, asked, step.asked)
		}
	}
}
