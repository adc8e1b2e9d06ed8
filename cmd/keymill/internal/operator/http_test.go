package operator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// served is a bench whose page is served.
type served struct {
	*bench
	page *Page
	url  string
}

func serve(t *testing.T, devices, slots int, change func(*bench, *Options)) *served {
	t.Helper()
	b := newBench(t, devices, slots, change)
	b.press.takes = 30 * time.Millisecond
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	page, err := NewPage(b.Station, ln.Addr(), nil, "0123456789")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- page.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		b.end()
	})
	return &served{b, page, page.URL()}
}

func (s *served) do(method, path, body string, headers ...string) (int, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func TestAPI(t *testing.T) {
	s := serve(t, 2, 1, nil)
	status, body := s.do(http.MethodGet, "/api/v1/state", "")
	const want = `{"lot":"W47","remaining":2,"made":0,"failed":0,"line":"running","slots":[{"name":"1","state":"empty","device":"","percent":0,"label":""}],"screen":"ready","message":"Scan the next unit"}`
	if status != 200 || strings.TrimSpace(body) != want {
		t.Errorf("%d %s", status, body)
	}
	s.places[0].plug()
	s.waitUntil(func(v *View) bool { return v.Slots[0].State == "ready" })
	if status, body = s.do("POST", "/api/v1/scan", `{"id":"1","text":"SN0001"}`); status != 200 || !strings.Contains(body, `"device":"SN0001"`) {
		t.Errorf("%d %s", status, body)
	}
	s.waitFor("pass")
	if status, body = s.do("POST", "/api/v1/scan", `{"id":"2","text":"SN0001.U1"}`); status != 200 || !strings.Contains(body, `"made":1`) {
		t.Errorf("%d %s", status, body)
	}
	// The same ids again do nothing.
	s.do("POST", "/api/v1/scan", `{"id":"1","text":"SN0002"}`)
	s.do("POST", "/api/v1/scan", `{"id":"2","text":"SN0002"}`)
	s.wantUnits("SN0001 confirmed")
	if status, body = s.do(http.MethodGet, "/metrics", ""); status != 200 || !strings.Contains(body, `keymill_station_units{lot="W47",state="confirmed"} 1`) {
		t.Errorf("%d %s", status, body)
	}
	for _, path := range []string{"/", "/screen", "/numbers", "/codes", "/static/station.js", "/static/station.css", "/static/icon.svg"} {
		if status, body = s.do(http.MethodGet, path, ""); status != 200 || len(body) < 50 {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

func TestAPIRefuses(t *testing.T) {
	s := serve(t, 2, 1, nil)
	ours := s.url
	for name, tt := range map[string]struct {
		method, path, body string
		headers            []string
		want               int
	}{
		"unknown member":    {"POST", "/api/v1/scan", `{"id":"1","text":"x","key":"y"}`, nil, 400},
		"not JSON":          {"POST", "/api/v1/scan", `SN0001`, nil, 400},
		"two of them":       {"POST", "/api/v1/scan", `{"id":"1","text":"x"}{}`, nil, 400},
		"large":             {"POST", "/api/v1/scan", `{"id":"1","text":"` + strings.Repeat("x", 9000) + `"}`, nil, 400},
		"long text":         {"POST", "/api/v1/scan", `{"id":"1","text":"` + strings.Repeat("x", 600) + `"}`, nil, 400},
		"another site":      {"POST", "/api/v1/scan", `{"id":"1","text":"SN0001"}`, []string{"Origin", "http://evil.example"}, 403},
		"a null origin":     {"POST", "/api/v1/scan", `{"id":"1","text":"SN0001"}`, []string{"Origin", "null"}, 403},
		"no cookie":         {"POST", "/api/v1/scan", `{"id":"1","text":"SN0001"}`, []string{"Origin", ours}, 403},
		"a wrong cookie":    {"POST", "/api/v1/scan", `{"id":"1","text":"SN0001"}`, []string{"Origin", ours, "Cookie", cookieName + "=x"}, 403},
		"a form":            {"POST", "/api/v1/scan", `{"id":"1","text":"SN0001"}`, []string{"Origin", ours, "Cookie", cookieName + "=" + s.page.secret}, 415},
		"rebound name":      {http.MethodGet, "/api/v1/state", "", []string{"Host", "evil.example:" + ours[strings.LastIndex(ours, ":")+1:]}, 403},
		"another port":      {http.MethodGet, "/api/v1/state", "", []string{"Host", "127.0.0.1:1"}, 403},
		"cross-site fetch":  {http.MethodGet, "/screen", "", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		"stale revision":    {"POST", "/api/v1/scan", `{"id":"1","text":"END"}`, []string{"If-Match", `"99"`}, 409},
		"a tab, long":       {"POST", "/api/v1/takeover", "", []string{"X-Keymill-Tab", strings.Repeat("b", 99)}, 400},
		"no such file":      {http.MethodGet, "/static/page.html", "", nil, 404},
		"no such path":      {http.MethodGet, "/api/v1/keys", "", nil, 404},
		"wrong method":      {http.MethodGet, "/api/v1/scan", "", nil, 405},
		"take over unnamed": {"POST", "/api/v1/takeover", "", nil, 400},
	} {
		if status, body := s.do(tt.method, tt.path, tt.body, tt.headers...); status != tt.want {
			t.Errorf("%s: %d %s, want %d", name, status, body, tt.want)
		}
	}
	s.wantUnits()
	good := []string{"Origin", ours, "Cookie", cookieName + "=" + s.page.secret, "Content-Type", "application/json"}
	if status, body := s.do("POST", "/api/v1/scan", `{"id":"9","text":"SN0001"}`, good...); status != 200 {
		t.Errorf("the page's own scan: %d %s", status, body)
	}
}

func TestSecondTabOnlyLooks(t *testing.T) {
	s := serve(t, 2, 1, nil)
	first, second := s.tab("a"), s.tab("b")
	if got := <-first; got != `{"active":true}` {
		t.Errorf("the first tab: %s", got)
	}
	if got := <-second; got != `{"active":false}` {
		t.Errorf("the second tab: %s", got)
	}
	scan := func(tab, id string) int {
		status, _ := s.do("POST", "/api/v1/scan", `{"id":"`+id+`","text":"ACK"}`, "X-Keymill-Tab", tab)
		return status
	}
	if a, b := scan("a", "1"), scan("b", "2"); a != 200 || b != 409 {
		t.Errorf("%d and %d", a, b)
	}
	s.do("POST", "/api/v1/takeover", "", "X-Keymill-Tab", "b")
	if gotA, gotB := <-first, <-second; gotA != `{"active":false}` || gotB != `{"active":true}` {
		t.Errorf("after the takeover: %s, %s", gotA, gotB)
	}
	if a, b := scan("a", "3"), scan("b", "4"); a != 409 || b != 200 {
		t.Errorf("%d and %d", a, b)
	}
}

// tab listens as the page does, and yields what it is told of its right to scan.
func (s *served) tab(name string) <-chan string {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.url+"/api/v1/events?tab="+name, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	told := make(chan string, 8)
	go func() {
		defer resp.Body.Close()
		defer close(told)
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			if lines.Text() == "event: tab" && lines.Scan() {
				told <- strings.TrimPrefix(lines.Text(), "data: ")
			}
		}
	}()
	return told
}

func TestEventsAreTheState(t *testing.T) {
	s := serve(t, 2, 1, nil)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/api/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Errorf("the stream is %s", kind)
	}
	s.places[0].plug()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var state State
		dec := json.NewDecoder(bytes.NewReader([]byte(data)))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&state); err != nil {
			t.Fatal(err)
		}
		if state.Slots[0].State == "ready" {
			return
		}
	}
	t.Fatal(lines.Err())
}

// TestManyUnits is a day and a half in a moment: neither memory nor goroutines may
// grow with the units that one process makes.
func TestManyUnits(t *testing.T) {
	const units, slots = 5000, 5
	var early, late uint64
	routines := 0
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, units, slots, nil)
		defer b.end()
		measure := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		b.press.takes = 10 * time.Second
		number := 0
		for done := 0; done < units; {
			for _, p := range b.places {
				b.press.blank("/dev/fake" + p.name)
				p.plug()
			}
			pass(2 * time.Second)
			batch := min(slots, units-done)
			for i := range batch {
				b.scan(deviceName(b.lot.records[done+i]))
				pass(time.Second)
			}
			pass(15 * time.Second)
			for i := range batch {
				number++
				b.scan(deviceName(b.lot.records[done+i]) + ".U" + strconv.Itoa(number))
			}
			for _, p := range b.places {
				p.pull()
			}
			pass(2 * time.Second)
			done += batch
			if done == 500 {
				early = measure()
				routines = runtime.NumGoroutine()
			}
		}
		late = measure()
		if n := runtime.NumGoroutine(); n > routines+5 {
			t.Errorf("%d goroutines after 500 units, %d after %d", routines, n, units)
		}
		if v, _ := b.View(); v.Made != units || v.Failed != 0 || v.Remaining != 0 {
			t.Errorf("%+v", v.State)
		}
	})
	// What the fake lot keeps of its units and texts is the test's own, about 1 kB each.
	if grown := int64(late) - int64(early); grown > (units-500)*2000 {
		t.Errorf("%d bytes after 500 units, %d after %d", early, late, units)
	}
}
