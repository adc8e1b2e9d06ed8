// Receiver shows how to take keymill's webhook calls: it checks signature and
// age as standardwebhooks.com specifies, and appends each notification to a
// file, one JSON object a line. It prints its URL on stdout when it is ready.
//
//	receiver SECRET-FILE LOG-FILE
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: receiver SECRET-FILE LOG-FILE")
	}
	secret, err := readSecret(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	out, err := os.OpenFile(os.Args[2], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it listens until it is ended
	if err != nil {
		log.Fatal(err)
	}
	if _, err := fmt.Fprintf(os.Stdout, "http://%s\n", ln.Addr()); err != nil { //nolint:forbidigo // this is main
		log.Fatal(err)
	}
	server := &http.Server{Handler: &receiver{secret: secret, out: out}, ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(server.Serve(ln))
}

func readSecret(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(strings.TrimPrefix(strings.TrimSpace(string(text)), "whsec_"))
}

type receiver struct {
	secret []byte
	mu     sync.Mutex
	out    io.Writer // guarded by mu
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(io.LimitReader(req.Body, 1<<20))
	if err == nil {
		err = r.verify(req.Header, body, time.Now())
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.out.Write(append(bytes.TrimSpace(body), '\n')); err != nil {
		http.Error(w, "not stored", http.StatusInternalServerError) // keymill calls again
	}
}

// verify accepts a body only from somebody who has the secret, and only for five
// minutes. A repeated call is not an error: its webhook-id is the same.
func (r *receiver) verify(header http.Header, body []byte, now time.Time) error {
	id, stamp := header.Get("webhook-id"), header.Get("webhook-timestamp")
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || now.Sub(time.Unix(seconds, 0)).Abs() > 5*time.Minute {
		return errors.New("the time stamp is missing or too far away")
	}
	mac := hmac.New(sha256.New, r.secret)
	fmt.Fprintf(mac, "%s.%s.%s", id, stamp, body)
	want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	if !hmac.Equal([]byte(header.Get("webhook-signature")), []byte(want)) {
		return errors.New("the signature is wrong")
	}
	return nil
}
