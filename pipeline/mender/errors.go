package mender

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"unicode"

	"keymill/pipeline"
)

var (
	errGarbled   = errors.New("the answer is cut short or is not the Mender server's")
	errTooLong   = errors.New("the server's answer is too long to be real")
	errUnsettled = errors.New("a request ended without an answer and without an error")
	errGiveUp    = errors.New("the server has been down for too long")
)

// StatusError is an answer that the API call can't go on from.
type StatusError struct {
	Status    int    // HTTP status
	Message   string // the server's own words, shortened; may be empty
	RequestID string // X-MEN-RequestID; may be empty
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		text += ": " + e.Message
	}
	if e.RequestID != "" {
		text += " (request " + e.RequestID + ")"
	}
	return text
}

func statusError(k *call) error {
	e := &StatusError{Status: k.status, RequestID: clean(k.requestID, 64)}
	var body struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(k.body, &body) == nil {
		e.Message = clean(k.redact(body.Error), 200)
	}
	return e
}

// redact takes out the secrets that were sent, should something echo them.
func (k *call) redact(s string) string {
	if k.used != nil {
		s = strings.ReplaceAll(s, k.used.token, "[token]")
	}
	if k.password != "" {
		both := base64.StdEncoding.EncodeToString([]byte(k.user + ":" + k.password))
		s = strings.NewReplacer(k.password, "[password]", both, "[password]").Replace(s)
	}
	return s
}

// fromAPI reports whether an error was given by the server itself, not by a
// gateway before it: as JSON or, for what a DELETE doesn't find, without a body
// but with a request id.
func (a *answer) fromAPI() bool {
	if len(a.body) == 0 {
		return a.requestID != ""
	}
	var body struct {
		Error *string `json:"error"`
	}
	return json.Unmarshal(a.body, &body) == nil && body.Error != nil
}

// clean makes foreign text fit for one line of a log, and drops PEM blocks.
func clean(s string, most int) string {
	s, _, _ = strings.Cut(s, "-----BEGIN")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + ".."
	}
	return strings.TrimSpace(s)
}

// exhausted is the error of a call that failed again and again. Its hint says no
// more than is known.
func (w *wire) exhausted(k *call, err error) error {
	if err == nil {
		err = statusError(k)
	}
	hint := errorHint(err)
	if !k.quick && k.lonely < k.failures {
		hint = "The server answers others; look for this request in its log, then run again."
	}
	return pipeline.WithHint(fmt.Errorf("gave up after %d attempts: %w", k.attempts, err), "%s", hint)
}

// asOutage makes an *pipeline.Outage of err unless it is one.
func asOutage(err error) error {
	if o, ok := errors.AsType[*pipeline.Outage](err); ok {
		return o
	}
	return &pipeline.Outage{Part: pipeline.PartServer, Err: err, Hint: pipeline.Hint(err)}
}

func isOutage(err error) bool {
	_, ok := errors.AsType[*pipeline.Outage](err)
	return ok
}

// isTLSRefusal reports errors of the TLS handshake that asking again can't heal.
func isTLSRefusal(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.AlertError](err); ok {
		return true
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return true
	}
	return errors.Is(err, http.ErrSchemeMismatch) || isCertError(err)
}

// isDialTimeout reports that no connection came about.
func isDialTimeout(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial" && op.Timeout()
}

func isCertError(err error) bool {
	_, authority := errors.AsType[x509.UnknownAuthorityError](err)
	_, host := errors.AsType[x509.HostnameError](err)
	_, invalid := errors.AsType[x509.CertificateInvalidError](err)
	return authority || host || invalid
}

// statusHint says what to do about a status that stops a lot.
func statusHint(status int) string {
	switch {
	case status == http.StatusUnauthorized:
		return "The token has expired or was revoked, or user and password are wrong: put a new one into the token file and run again."
	case status == http.StatusForbidden:
		return "The token's role may not do this: it needs permission to manage device authentication."
	case status == http.StatusProxyAuthRequired:
		return "The proxy in HTTPS_PROXY wants a user and password."
	case status == http.StatusTooManyRequests:
		return "The server's quota is used up; run again later, or ask for a higher quota."
	case status == http.StatusBadGateway, status == http.StatusGatewayTimeout:
		return "A gateway answers, but the Mender server behind it doesn't: is it running? Look at its log, and run again when it is well."
	case status == http.StatusServiceUnavailable:
		return "The server says that it can't serve now: look at its load and health, and at the database and cache that it needs; then run again."
	case status >= 500:
		return "Look at the server's own log and health; run again when it is well."
	case status >= 200 && status < 300:
		return "Something between here and the server answers in its place; look at the proxy settings."
	}
	return "There is no Mender server at this address: check server.url, its path prefix included."
}

// errorHint says what to do about an error of the network.
func errorHint(err error) string {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "The server's certificate is out of its time: renew it, and check this machine's clock."
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "Name the CA that signed the server's certificate: --ca-file or server.ca_file."
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "The certificate is for another host name: check server.url."
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "proxyconnect" {
		return "The proxy can't be reached: check HTTPS_PROXY and NO_PROXY in the environment."
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return "The host name is unknown: check server.url and this machine's DNS."
		}
		return "The host name can't be looked up, because the DNS doesn't answer: check this machine's network and /etc/resolv.conf."
	}
	if e, ok := errors.AsType[*StatusError](err); ok {
		return statusHint(e.Status)
	}
	record, _ := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case errors.Is(err, errGarbled):
		return "Something between here and the server cuts its answers or gives its own; look at the proxy settings."
	case string(record.RecordHeader[:]) == "HTTP/", errors.Is(err, http.ErrSchemeMismatch):
		return "The port speaks plain HTTP: check server.url."
	case isTLSRefusal(err):
		return "TLS can't be agreed on with what answers there: check server.url and what stands between."
	case errors.Is(err, syscall.ECONNREFUSED):
		return "Nothing listens there: is the server running, and the port right?"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), isDialTimeout(err):
		return "Nothing answers at this address: is the host up, and does the network let this machine reach it? Look at firewalls between."
	case errors.Is(err, context.DeadlineExceeded):
		return "The server takes connections but doesn't answer in time: look at its load, and at firewalls and proxies between."
	}
	return "Check the network, the proxy settings and the server's health, then run again."
}
