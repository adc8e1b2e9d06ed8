package imaging

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// serveImages serves devices 1 to 3 of the lot "a b", and fails for "broken".
func serveImages(t *testing.T, log io.Writer) (url string, image func(n int) []byte) {
	return serveTo(t, log, func(context.Context, ServeRequest) (func([]Span), error) { return func([]Span) {}, nil })
}

func serveTo(t *testing.T, log io.Writer, begin func(context.Context, ServeRequest) (func([]Span), error)) (url string, image func(n int) []byte) {
	g, tmpl := smallGolden(t, t.TempDir())
	handler, err := NewServeHandler(ServeOptions{
		Tokens: []ServeToken{{"", "secret"}, {"line 2", "other"}}, Begin: begin,
		Log: slog.New(slog.NewTextHandler(log, nil)),
		Resolve: func(_ context.Context, lot, device string) (Image, *Overlay, error) {
			var n int
			if device == "broken" {
				return nil, nil, errors.New("disk on fire")
			}
			if _, err := fmt.Sscanf(device, "02:00:00:00:00:%02d", &n); err != nil || lot != "a b" || n > 3 {
				return nil, nil, fs.ErrNotExist
			}
			return g, handOverlay(t, tmpl, n), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL, func(n int) []byte { return wantImage(t, g, handOverlay(t, tmpl, n)) }
}

func fetch(t *testing.T, method, url string, header http.Header) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

func bearer(more ...string) http.Header {
	h := http.Header{"Authorization": {"Bearer secret"}}
	for i := 0; i+1 < len(more); i += 2 {
		h.Set(more[i], more[i+1])
	}
	return h
}

func TestServeShowsImages(t *testing.T) {
	var log bytes.Buffer
	url, image := serveImages(t, &log)
	one := url + "/a%20b/02:00:00:00:00:01.img"
	resp, body := fetch(t, "GET", one, bearer())
	if resp.StatusCode != http.StatusOK || !bytes.Equal(body, image(1)) || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s, %d bytes, %v", resp.Status, len(body), resp.Header)
	}
	tag := resp.Header.Get("ETag")
	other, body := fetch(t, "GET", url+"/a%20b/02%3A00:00:00:00:02.img", bearer())
	if !bytes.Equal(body, image(2)) || other.Header.Get("ETag") == tag {
		t.Fatalf("another device: %s, ETag %s", other.Status, other.Header.Get("ETag"))
	}
	for _, c := range []struct {
		name, method string
		header       http.Header
		status       int
		want         []byte
	}{
		{"a range across the slot", "GET", bearer("Range", "bytes=4000-6999"), 206, image(1)[4000:7000]},
		{"the end", "GET", bearer("Range", "bytes=-100"), 206, image(1)[4<<20-100:]},
		{"the rest, unchanged", "GET", bearer("Range", "bytes=4194000-", "If-Range", tag), 206, image(1)[4194000:]},
		{"the rest, changed", "GET", bearer("Range", "bytes=4194000-", "If-Range", `"x"`), 200, image(1)},
		{"behind the end", "GET", bearer("Range", "bytes=9000000-"), 416, nil},
		{"what it has", "GET", bearer("If-None-Match", tag), 304, nil},
		{"head", "HEAD", bearer(), 200, nil},
	} {
		resp, body := fetch(t, c.method, one, c.header)
		if resp.StatusCode != c.status || c.want != nil && !bytes.Equal(body, c.want) {
			t.Errorf("%s: %s, %d bytes", c.name, resp.Status, len(body))
		}
		if c.method == "HEAD" && (resp.ContentLength != 4<<20 || len(body) > 0) {
			t.Errorf("head: %d, %d bytes", resp.ContentLength, len(body))
		}
	}
	if !strings.Contains(log.String(), "device=02:00:00:00:00:01") || strings.Contains(log.String(), "secret") {
		t.Errorf("the log: %s", log.String())
	}
}

func TestServeRefuses(t *testing.T) {
	url, _ := serveImages(t, io.Discard)
	basic := func(password string) http.Header {
		r := http.Request{Header: http.Header{}}
		r.SetBasicAuth("x", password)
		return r.Header
	}
	const one = "/a%20b/02:00:00:00:00:01.img"
	for _, c := range []struct {
		method, path string
		header       http.Header
		want         int
	}{
		{"GET", one, nil, 401},
		{"GET", one, http.Header{"Authorization": {"Bearer wrong"}}, 401},
		{"GET", one, http.Header{"Authorization": {"Bearer "}}, 401},
		{"GET", one, basic("wrong"), 401},
		{"GET", "/nothing/here.img", nil, 401},
		{"GET", one, basic("secret"), 200},
		{"POST", one, bearer(), 405},
		{"DELETE", one, bearer(), 405},
		{"GET", "/a%20b/02:00:00:00:00:09.img", bearer(), 404},
		{"GET", "/other/02:00:00:00:00:01.img", bearer(), 404},
		{"GET", "/a%20b/02:00:00:00:00:01", bearer(), 404},
		{"GET", "/a%20b/.img", bearer(), 404},
		{"GET", "/", bearer(), 404},
		{"GET", "/a%20b/broken.img", bearer(), 500},
	} {
		resp, body := fetch(t, c.method, url+c.path, c.header)
		if resp.StatusCode != c.want {
			t.Errorf("%s %s: %s", c.method, c.path, resp.Status)
		}
		if resp.StatusCode != http.StatusOK && (bytes.Contains(body, []byte("PRIVATE")) || bytes.Contains(body, []byte("fire"))) {
			t.Errorf("%s %s tells too much: %s", c.method, c.path, body)
		}
	}
	if _, err := NewServeHandler(ServeOptions{}); err == nil {
		t.Error("serves without a token")
	}
}

// The device's own bytes leave only when they were bound to the client; HEAD and other
// ranges bind nothing.
func TestServeBinds(t *testing.T) {
	var mu sync.Mutex
	var begun []ServeRequest
	ended := make(chan []int64, 1)
	refuse := false
	url, image := serveTo(t, io.Discard, func(_ context.Context, r ServeRequest) (func([]Span), error) {
		mu.Lock()
		defer mu.Unlock()
		begun = append(begun, r)
		if refuse {
			return nil, &ServeRefusal{http.StatusConflict, "another client has it"}
		}
		return func(sent []Span) {
			all := []int64{}
			for _, s := range sent {
				all = append(all, s.Offset, s.Length)
			}
			ended <- all
		}, nil
	})
	one := url + "/a%20b/02:00:00:00:00:01.img"
	// The slots of handTemplate lie at 4096 to 6143 and 9216 to 9367.
	for _, c := range []struct {
		name, method string
		header       http.Header
		status       int
		binds        bool
		sent         string
	}{
		{"head", "HEAD", bearer(), 200, false, "[]"},
		{"before", "GET", bearer("Range", "bytes=0-4095"), 206, false, "[]"},
		{"between", "GET", bearer("Range", "bytes=6144-9215"), 206, false, "[]"},
		{"behind", "GET", bearer("Range", "bytes=9368-"), 206, false, "[]"},
		{"two, beside", "GET", bearer("Range", "bytes=0-1,-2"), 206, false, "[]"},
		{"what it has", "GET", bearer("If-None-Match", "TAG"), 304, false, "[]"},
		{"the first byte", "GET", bearer("Range", "bytes=4096-4096"), 206, true, "[4096 1]"},
		{"the last byte", "GET", bearer("Range", "bytes=9367-9367"), 206, true, "[9367 1]"},
		{"two, one on it", "GET", bearer("Range", "bytes=0-1,5000-5001"), 206, true, "[0 2 5000 2]"},
		{"changed", "GET", bearer("Range", "bytes=0-1", "If-Range", `"x"`), 200, true, "[0 4194304]"},
		{"nonsense", "GET", bearer("Range", "bytes=x"), 416, true, "[]"},
		{"all", "GET", bearer(), 200, true, "[0 4194304]"},
	} {
		begun = nil
		if c.header.Get("If-None-Match") != "" {
			resp, _ := fetch(t, "HEAD", one, bearer())
			c.header.Set("If-None-Match", resp.Header.Get("ETag"))
		}
		resp, _ := fetch(t, c.method, one, c.header)
		mu.Lock()
		if resp.StatusCode != c.status || (len(begun) > 0) != c.binds || resp.Header.Get("X-Accel-Buffering") != "no" || c.status != 416 && resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s, bound %d times", c.name, resp.Status, len(begun))
		}
		mu.Unlock()
		if c.binds {
			if got := fmt.Sprint(<-ended); got != c.sent {
				t.Errorf("%s: sent %s", c.name, got)
			}
			if begun[0].Client != "address 127.0.0.1" || begun[0].Lot != "a b" || begun[0].Device != "02:00:00:00:00:01" || begun[0].ETag == "" {
				t.Errorf("%s: %+v", c.name, begun[0])
			}
		}
	}
	begun = nil
	if resp, body := fetch(t, "GET", one, http.Header{"Authorization": {"bearer other"}}); resp.StatusCode != http.StatusOK || !bytes.Equal(body, image(1)) || begun[0].Client != "token line 2" {
		t.Errorf("%s, %+v", resp.Status, begun)
	}
	refuse = true
	resp, body := fetch(t, "GET", one, bearer())
	if resp.StatusCode != http.StatusConflict || !bytes.Contains(body, []byte("another client has it")) {
		t.Errorf("%s: %s", resp.Status, body)
	}
}

// A client that goes before the end has not got all.
func TestServeBrokenOff(t *testing.T) {
	got := make(chan []Span, 1)
	url, _ := serveTo(t, io.Discard, func(context.Context, ServeRequest) (func([]Span), error) {
		return func(sent []Span) { got <- sent }, nil
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/a%20b/02:00:00:00:00:01.img", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = bearer()
	resp, err := (&http.Client{Transport: &http.Transport{ReadBufferSize: 4096}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, 8192); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if sent := <-got; Covers(sent, 4<<20) {
		t.Errorf("all was sent: %v", sent)
	}
}
