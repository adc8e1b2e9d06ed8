package demo

import "testing"

// TestReachable: the URL that the sandbox prints is one that clients can use.
func TestReachable(t *testing.T) {
	for _, test := range []struct {
		address string
		names   []string
		want    string
	}{
		{"127.0.0.1:1", nil, "127.0.0.1:1"},
		{"[::1]:1", []string{"box"}, "[::1]:1"},
		{"[::]:1", nil, "127.0.0.1:1"},
		{"0.0.0.0:1", []string{"box.local", "box"}, "box.local:1"},
	} {
		if got := reachable(test.address, test.names); got != test.want {
			t.Errorf("%s: %s, want %s", test.address, got, test.want)
		}
	}
}
