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
	"testing"
)

// serveImages serves devices 1 to 3 of the lot "a b", and fails for "broken".
func serveImages(t *testing.T, log io.Writer) (url string, image func(n int) []byte) {
	g, tmpl := smallGolden(t, t.TempDir())
	handler, err := NewServeHandler(ServeOptions{
		Token: "secret",
		Log:   slog.New(slog.NewTextHandler(log, nil)),
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
