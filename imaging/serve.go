package imaging

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// ServeOptions says what a handler serves and to whom.
type ServeOptions struct {
	// Token is what clients must show, as a bearer token or as the password of
	// basic authentication (iPXE and many gang programmers know only URLs of
	// the form http://any:TOKEN@host/). It must not be empty.
	Token string
	// Resolve returns golden and overlay of a device. An error that is
	// fs.ErrNotExist becomes the answer 404, another one 500.
	Resolve func(ctx context.Context, lot, device string) (Image, *Overlay, error)
	// Log gets a line for each answer.
	Log *slog.Logger
}

// NewServeHandler returns a handler that shows each device's whole image at
// /LOT/DEVICE.img without any image on the disk. It answers GET and HEAD, with
// ranges (RFC 9110, section 14) and with strong entity tags, so that a
// transfer can be resumed. Answers hold private keys: use it on loopback, or
// behind TLS.
func NewServeHandler(opt ServeOptions) (http.Handler, error) {
	if opt.Token == "" {
		return nil, errors.New("images hold private keys: they can't be served without a token")
	}
	s := &imageServer{opt: opt, token: sha256.Sum256([]byte(opt.Token))}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{lot}/{file}", s.image)
	return s.guard(mux), nil
}

type imageServer struct {
	opt   ServeOptions
	token [sha256.Size]byte
}

// guard lets nobody pass without the token.
func (s *imageServer) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			_, token, _ = r.BasicAuth()
		}
		sum := sha256.Sum256([]byte(token))
		if subtle.ConstantTimeCompare(sum[:], s.token[:]) != 1 {
			s.opt.Log.Warn("refused: no token, or a wrong one", "path", r.URL.Path, "client", r.RemoteAddr)
			w.Header().Set("WWW-Authenticate", `Basic realm="keymill"`)
			http.Error(w, "the token is missing or wrong", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *imageServer) image(w http.ResponseWriter, r *http.Request) {
	lot := r.PathValue("lot")
	device, ok := strings.CutSuffix(r.PathValue("file"), ".img")
	if !ok || device == "" {
		http.Error(w, "images are at /LOT/DEVICE.img", http.StatusNotFound)
		return
	}
	log := s.opt.Log.With("lot", lot, "device", device, "client", r.RemoteAddr)
	golden, overlay, err := s.opt.Resolve(r.Context(), lot, device)
	var image *Reader
	if err == nil {
		image, err = NewReader(golden, overlay)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		log.Warn("no such image")
		http.Error(w, "there is no such image", http.StatusNotFound)
		return
	case err != nil:
		log.Error("image can't be served", "err", err)
		http.Error(w, "the image can't be served; keymill's log says why", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("ETag", `"`+image.etag(golden)+`"`)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "application/octet-stream")
	log.Info("serve image", "method", r.Method, "range", r.Header.Get("Range"))
	http.ServeContent(w, r, "", time.Time{}, image.NewSeeker())
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
