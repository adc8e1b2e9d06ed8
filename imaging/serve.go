package imaging

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"
)

// ServeToken lets a client in.
type ServeToken struct {
	// Name is the client's; empty: the token is shared by several, which are then
	// told apart by their addresses.
	Name string
	// Secret is what the client shows, as a bearer token or as the password of basic
	// authentication (iPXE and many gang programmers know only URLs of the form
	// http://any:SECRET@host/). It must not be empty.
	Secret string
}

// ServeRequest is a request for bytes that only one unit may get.
type ServeRequest struct {
	Lot, Device string // as in the URL
	Client      string // "certificate HASH", "token NAME" or "address HOST"
	ETag        string // names the image's bytes
	From        int64  // first byte that is asked for
}

// ServeRefusal is an answer of Begin that the client is told.
type ServeRefusal struct {
	Status int // such as 409
	Text   string
}

func (e *ServeRefusal) Error() string { return e.Text }

// ServeOptions says what a handler serves and to whom.
type ServeOptions struct {
	// Tokens let clients in; so does a client certificate that the TLS server has
	// verified. There must be one token at least.
	Tokens []ServeToken
	// Resolve returns golden and overlay of a device. An error that is
	// fs.ErrNotExist becomes the answer 404, a *ServeRefusal what it says, another
	// one 500.
	Resolve func(ctx context.Context, lot, device string) (Image, *Overlay, error)
	// Begin is called before the device's own bytes leave, and binds them to the
	// client, durably. ended is told which bytes of the image went out. HEAD, and
	// ranges without these bytes, come without it.
	Begin func(ctx context.Context, r ServeRequest) (ended func(sent []Span), err error)
	// Log gets lines for each answer: its beginning and its end.
	Log *slog.Logger
}

// NewServeHandler returns a handler that shows each device's whole image at
// /LOT/DEVICE.img without any image on the disk. It answers GET and HEAD, with
// ranges (RFC 9110, section 14) and with strong entity tags, so that a
// transfer can be resumed. Answers hold private keys: use it on loopback, or
// behind TLS.
func NewServeHandler(opt ServeOptions) (http.Handler, error) {
	s := &imageServer{opt: opt}
	for _, t := range opt.Tokens {
		if t.Secret == "" {
			return nil, errors.New("images hold private keys: an empty token lets everybody in")
		}
		s.tokens = append(s.tokens, sha256.Sum256([]byte(t.Secret)))
	}
	if len(s.tokens) == 0 {
		return nil, errors.New("images hold private keys: they can't be served without a token")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{lot}/{file}", s.image)
	return s.guard(mux), nil
}

type imageServer struct {
	opt    ServeOptions
	tokens [][sha256.Size]byte // of opt.Tokens
}

// clientKey is where guard puts the client's name into a request's context.
type clientKey struct{}

// guard lets nobody pass without a token or a certificate.
func (s *imageServer) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := s.client(r)
		if client == "" {
			s.opt.Log.Warn("refused: no token, or a wrong one", "path", r.URL.Path, "client", r.RemoteAddr)
			w.Header().Set("WWW-Authenticate", `Basic realm="keymill"`)
			http.Error(w, "the token is missing or wrong", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), clientKey{}, client)))
	})
}

// client says who asks, "" if nobody who may.
func (s *imageServer) client(r *http.Request) string {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		sum := sha256.Sum256(r.TLS.VerifiedChains[0][0].Raw)
		return "certificate " + hex.EncodeToString(sum[:])
	}
	var shown string
	if kind, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(kind, "bearer") {
		shown = strings.TrimSpace(token)
	} else {
		_, shown, _ = r.BasicAuth()
	}
	sum := sha256.Sum256([]byte(shown))
	client := ""
	for i, t := range s.tokens {
		if subtle.ConstantTimeCompare(sum[:], t[:]) != 1 {
			continue
		}
		if client = "token " + s.opt.Tokens[i].Name; s.opt.Tokens[i].Name == "" {
			host, _, err := net.SplitHostPort(r.RemoteAddr)
			client = "address " + host
			if err != nil {
				client = "address " + r.RemoteAddr
			}
		}
	}
	return client
}

func (s *imageServer) image(w http.ResponseWriter, r *http.Request) {
	lot := r.PathValue("lot")
	device, ok := strings.CutSuffix(r.PathValue("file"), ".img")
	if !ok || device == "" {
		http.Error(w, "images are at /LOT/DEVICE.img", http.StatusNotFound)
		return
	}
	client, _ := r.Context().Value(clientKey{}).(string)
	log := s.opt.Log.With("lot", lot, "device", device, "client", client, "from", r.RemoteAddr)
	golden, overlay, err := s.opt.Resolve(r.Context(), lot, device)
	var image *Reader
	if err == nil {
		defer wipeExtents(overlay.Slots)
		image, err = NewReader(golden, overlay)
	}
	if err != nil {
		answerError(w, log, err)
		return
	}
	etag := image.etag(golden)
	h := w.Header()
	h.Set("ETag", `"`+etag+`"`)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would spool keys to its disk
	h.Set("Content-Type", "application/octet-stream")
	ask := askedFor(r, etag, image.size)
	body := &servedImage{Reader: image, own: spansOf(overlay.Slots)}
	ended := func([]Span) {}
	if ask.touches(body.own) {
		body.allowed = true
		ended, err = s.opt.Begin(r.Context(), ServeRequest{lot, device, client, etag, ask.from()})
		if err != nil {
			answerError(w, log, err)
			return
		}
	}
	log.Info("serve image", "method", r.Method, "range", r.Header.Get("Range"))
	out := &countedWriter{ResponseWriter: w}
	http.ServeContent(out, r, "", time.Time{}, body.seeker())
	sent := body.sent(out.err != nil || r.Context().Err() != nil)
	ended(sent)
	line := log.Info
	what := "image sent"
	if out.err != nil || r.Context().Err() != nil {
		line, what = log.Warn, "the client went before all was sent"
	}
	line(what, "method", r.Method, "status", cmp.Or(out.status, http.StatusOK), "bytes", out.n)
}

// answerError says why there is no image.
func answerError(w http.ResponseWriter, log *slog.Logger, err error) {
	h := w.Header()
	h.Del("ETag")
	h.Set("Cache-Control", "no-store")
	refusal, refused := errors.AsType[*ServeRefusal](err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		log.Warn("no such image")
		http.Error(w, "there is no such image", http.StatusNotFound)
	case refused:
		log.Warn("refused", "reason", refusal.Text)
		http.Error(w, refusal.Text, refusal.Status)
	default:
		log.Error("image can't be served", "err", err)
		http.Error(w, "the image can't be served; keymill's log says why", http.StatusInternalServerError)
	}
}

// etag names the image's bytes without reading golden. Keys have too much
// entropy to be found from it.
func (r *Reader) etag(g Image) string {
	h := sha256.New()
	sum := g.SHA256()
	h.Write(sum[:])
	for _, e := range r.extents {
		var head [16]byte
		binary.LittleEndian.PutUint64(head[:], uint64(e.Offset))
		binary.LittleEndian.PutUint64(head[8:], uint64(len(e.Data)))
		h.Write(head[:])
		h.Write(e.Data)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
