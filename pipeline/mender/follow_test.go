package mender

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"keymill/pipeline"
)

// TestFollow: each request is told with its number, and each answer, also where
// there was none; the token is in neither.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t)
		f.fault = func(r *fakeRequest) (*http.Response, error) {
			switch {
			case r.after:
				return nil, nil
			case r.n == 1:
				return nil, errors.New("reset")
			case r.n == 2:
				return reply(http.StatusInternalServerError, "{}"), nil
			}
			return nil, nil
		}
		var told []string
		c := f.client(t, func(cfg *Config) {
			cfg.Follow = func(_ context.Context, a Attempt) func(Answer) {
				told = append(told, fmt.Sprintf("%s %s %d", a.Method, a.URL, a.Number))
				return func(b Answer) { told = append(told, fmt.Sprintf("%d %v", b.Status, b.Err)) }
			}
		})
		spki, _ := newKey(t)
		if _, err := c.Preauthorize(t.Context(), pipeline.Preauth{Identity: identity(1), SPKI: spki}); err != nil {
			t.Fatal(err)
		}
		const url = "POST https://mender.test/prefix" + apiPath + "/devices "
		want := []string{url + "1", "0 reset", url + "2", "500 <nil>", url + "3", "201 <nil>"}
		if !slices.Equal(told, want) {
			t.Errorf("told %q, want %q", told, want)
		}
		if strings.Contains(fmt.Sprint(told), testToken) {
			t.Error("the token was told")
		}
	})
}
