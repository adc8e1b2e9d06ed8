package config

import (
	"testing"
	"time"

	"keymill/cmd/keymill/internal/fault"
)

func TestParseAge(t *testing.T) {
	for text, want := range map[string]time.Duration{"": -1, "0d": 0, "90d": 2160 * time.Hour, "36h": 36 * time.Hour} {
		if got, err := ParseAge(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"d", "90", "-1d", "1.5d", "-3h", "999999999d", "90 days"} {
		if got, err := ParseAge(text); fault.KindOf(err) != fault.Usage {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}
