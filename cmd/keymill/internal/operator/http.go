package operator

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// cookieName is the cookie that shows that a request comes from the page.
const cookieName = "keymill-station"

// Page serves a station over HTTP. It decides nothing about units.
type Page struct {
	st       *Station
	secret   string // the cookie's value
	secure   bool   // TLS
	loopback bool
	cert     *x509.Certificate
	address  string // host:port that it listens on
	metrics  http.Handler
	mux      *http.ServeMux
	tmpl     *template.Template

	mu      sync.Mutex
	active  string         // the tab that may scan
	streams map[string]int // by tab
	moved   chan struct{}  // closed when another tab becomes active
}

// NewPage serves the station at an address: HOST:PORT as it listens. Where
// certificates are given it is TLS. secret is the cookie's value: a page that is
// open when the station starts again goes on with the same one.
func NewPage(st *Station, address net.Addr, certs []tls.Certificate, secret string) (*Page, error) {
	p := &Page{st: st, secret: secret, address: address.String(), streams: map[string]int{}, moved: make(chan struct{})}
	if tcp, ok := address.(*net.TCPAddr); ok {
		p.loopback = tcp.IP.IsLoopback()
	}
	if len(certs) > 0 {
		leaf, err := x509.ParseCertificate(certs[0].Certificate[0])
		if err != nil {
			return nil, err
		}
		p.secure, p.cert = true, leaf
	}
	tmpl, err := pages()
	if err != nil {
		return nil, err
	}
	p.tmpl = tmpl
	registry := prometheus.NewRegistry()
	registry.MustRegister(st)
	p.metrics = promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	p.mux = http.NewServeMux()
	p.mux.HandleFunc("GET /{$}", p.page)
	p.mux.HandleFunc("GET /screen", p.screen)
	p.mux.HandleFunc("GET /numbers", p.numbers)
	p.mux.HandleFunc("GET /codes", p.codes)
	p.mux.HandleFunc("GET /static/{name}", p.static)
	p.mux.HandleFunc("GET /api/v1/state", p.state)
	p.mux.HandleFunc("GET /api/v1/events", p.events)
	p.mux.HandleFunc("POST /api/v1/scan", p.scan)
	p.mux.HandleFunc("POST /api/v1/takeover", p.takeover)
	p.mux.Handle("GET /metrics", p.metrics)
	return p, nil
}

// newSecret makes a cookie's value.
func newSecret() (string, error) {
	random := make([]byte, 24)
	_, err := rand.Read(random)
	return hex.EncodeToString(random), err
}

// keptSecret reads the cookie's value, or makes it and keeps it there.
func keptSecret(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err == nil && len(data) == 48 {
		return string(data), nil
	}
	secret, err := newSecret()
	if err != nil {
		return "", err
	}
	return secret, os.WriteFile(path, []byte(secret), 0o600)
}

// URL is where the page is.
func (p *Page) URL() string {
	scheme := "http"
	if p.secure {
		scheme = "https"
	}
	return scheme + "://" + p.address
}

// Serve answers until ctx ends.
func (p *Page) Serve(ctx context.Context, ln net.Listener) error {
	server := &http.Server{
		Handler: p, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 15 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = server.Close() // streams would never end by themselves
	})
	err := server.Serve(ln)
	if !stop() {
		<-ended
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// ServeHTTP lets nobody in whose browser was sent here by another site.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	if reason := p.refuses(r); reason != "" {
		refuse(w, http.StatusForbidden, reason)
		return
	}
	p.mux.ServeHTTP(w, r)
}

// refuses says why a request is not taken; empty where it is.
func (p *Page) refuses(r *http.Request) string {
	if !p.knownHost(r.Host) {
		return "this station is not called " + strconv.Quote(r.Host)
	}
	origin := r.Header.Get("Origin")
	if origin != "" && origin != strings.TrimSuffix(p.URL(), p.address)+r.Host {
		return "the request comes from another page"
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return "the request comes from another site"
	}
	open := r.Method == http.MethodGet && (r.URL.Path == "/" || strings.HasPrefix(r.URL.Path, "/static/") || r.URL.Path == "/metrics")
	if open || p.loopback && origin == "" {
		return ""
	}
	cookie, err := r.Cookie(cookieName)
	if err != nil || subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(p.secret)) != 1 {
		return "load the station's page first"
	}
	return ""
}

// knownHost keeps other sites from reaching the station by a name of theirs that
// leads here.
func (p *Page) knownHost(host string) bool {
	if host == p.address {
		return true
	}
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		return false
	}
	_, ours, err := net.SplitHostPort(p.address)
	if err != nil || port != ours {
		return false
	}
	if p.loopback && (name == "localhost" || name == "127.0.0.1" || name == "::1") {
		return true
	}
	return p.cert != nil && p.cert.VerifyHostname(name) == nil
}

func refuse(w http.ResponseWriter, status int, reason string) {
	writeJSON(w, status, map[string]string{"error": reason})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // whoever asked has gone
}

func (p *Page) state(w http.ResponseWriter, _ *http.Request) {
	v, _ := p.st.View()
	writeJSON(w, http.StatusOK, v.State)
}

// scanBody is what a scan is sent as.
type scanBody struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

// scan takes a scan. The page's buttons say for which screen they were: another
// one is answered with 409 and what stands there now.
func (p *Page) scan(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") != "" && !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		refuse(w, http.StatusUnsupportedMediaType, "a scan is JSON")
		return
	}
	var body scanBody
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil {
		refuse(w, http.StatusBadRequest, "a scan is {\"id\", \"text\"}: "+err.Error())
		return
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		refuse(w, http.StatusBadRequest, "something follows the scan")
		return
	}
	if len(body.Text) > scanMost || len(body.ID) > 64 {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("a scan has %d bytes at most, its id 64", scanMost))
		return
	}
	if tab := r.Header.Get("X-Keymill-Tab"); tab != "" && !p.isActive(tab) {
		v, _ := p.st.View()
		writeJSON(w, http.StatusConflict, v.State)
		return
	}
	if match := r.Header.Get("If-Match"); match != "" {
		if v, _ := p.st.View(); match != strconv.Quote(strconv.Itoa(v.ScreenNumber)) {
			writeJSON(w, http.StatusConflict, v.State)
			return
		}
	}
	writeJSON(w, http.StatusOK, p.st.Scan(r.Context(), body.ID, body.Text).State)
}

// isActive reports whether a tab may scan: the first one that came, or the one
// that took over.
func (p *Page) isActive(tab string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.active == "" { // the station has just started again
		p.activate(tab)
	}
	return tab == p.active
}

func (p *Page) activate(tab string) {
	if p.active == tab {
		return
	}
	p.active = tab
	close(p.moved)
	p.moved = make(chan struct{})
}

func (p *Page) takeover(w http.ResponseWriter, r *http.Request) {
	tab := r.Header.Get("X-Keymill-Tab")
	if tab == "" || len(tab) > 64 {
		refuse(w, http.StatusBadRequest, "X-Keymill-Tab says which tab takes over")
		return
	}
	p.mu.Lock()
	p.activate(tab)
	p.mu.Unlock()
	v, _ := p.st.View()
	writeJSON(w, http.StatusOK, v.State)
}

// enter notes that a tab listens; it becomes the active one where none is.
func (p *Page) enter(tab string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams[tab]++
	if p.active == "" || p.streams[p.active] == 0 {
		p.activate(tab)
	}
}

func (p *Page) leave(tab string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams[tab]--; p.streams[tab] <= 0 {
		delete(p.streams, tab)
	}
}

// eventsPause is the least time between two events: progress comes in smaller
// steps than anybody sees.
const eventsPause = 100 * time.Millisecond

// events streams the state as server-sent events: the present one at once, then
// each that differs. Tabs of the page are also told whether they may scan.
func (p *Page) events(w http.ResponseWriter, r *http.Request) {
	tab := r.URL.Query().Get("tab")
	if len(tab) > 64 {
		refuse(w, http.StatusBadRequest, "that is no tab")
		return
	}
	if tab != "" {
		p.enter(tab)
		defer p.leave(tab)
	}
	out := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	if _, err := io.WriteString(w, "retry: 300\n\n"); err != nil { // how soon a browser comes back
		return
	}
	sent, told := -1, ""
	beat := time.NewTicker(10 * time.Second)
	defer beat.Stop()
	for {
		v, changed := p.st.View()
		p.mu.Lock()
		moved, active := p.moved, strconv.FormatBool(tab == p.active)
		p.mu.Unlock()
		if tab != "" && active != told {
			told = active
			fmt.Fprintf(w, "event: tab\ndata: {\"active\":%s}\n\n", active)
		}
		if v.Revision != sent {
			sent = v.Revision
			data, err := json.Marshal(v.State)
			if err != nil {
				return
			}
			fmt.Fprintf(w, "id: %d\ndata: %s\n\n", v.Revision, data)
		}
		if out.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-moved:
		case <-beat.C:
			if _, err := io.WriteString(w, ": still here\n\n"); err != nil {
				return
			}
		case <-changed:
			select {
			case <-time.After(eventsPause):
			case <-r.Context().Done():
				return
			}
		}
	}
}
