package mender

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"keymill/pipeline"
)

// Probe is what can be known about the server and our access before a lot is
// started.
type Probe struct {
	URL          string
	TokenExpires time.Time // zero if the token doesn't say
	MaxDevices   int       // quota of the tenant; 0: unlimited or unknown
	Devices      int       // registered, of all statuses
	Accepted     int       // of these
	Preauth      int       // of these, preauthorized
	// Skew is this machine's clock minus the server's, to half a second or so;
	// zero if the server doesn't tell its time.
	Skew        time.Duration
	Latency     time.Duration // of the last request
	Protocol    string        // HTTP/1.1 or HTTP/2.0
	TLS         string        // version, empty for transports without
	CertExpires time.Time     // of the server's certificate; zero if unknown
	CertIssuer  string
}

// probeFailures is how often ProbeNow tries each question.
const probeFailures = 8

// Probe asks the server a few questions that change nothing. Where the server
// can't be reached or refuses us, the error is an *pipeline.Outage: after
// Config.GiveUp where waiting can help, as for all other calls, so that a lot can
// begin while the server restarts.
func (c *Client) Probe(ctx context.Context) (Probe, error) { return c.probe(ctx, false) }

// ProbeNow is Probe for somebody who waits at a keyboard: it ends after seconds.
func (c *Client) ProbeNow(ctx context.Context) (Probe, error) { return c.probe(ctx, true) }

func (c *Client) probe(ctx context.Context, quick bool) (Probe, error) {
	p := Probe{URL: c.URL()}
	ask := func(k *call) error {
		k.quick = quick
		err := c.do(ctx, k)
		if err != nil && ctx.Err() == nil {
			return unwell(err)
		}
		return err
	}
	limit := 0
	k := limitCall(&limit)
	if err := ask(k); err != nil {
		return p, err
	}
	p.MaxDevices = max(limit, 0)
	p.describe(k)
	for status, n := range map[string]*int{"": &p.Devices, StatusAccepted: &p.Accepted, StatusPreauthorized: &p.Preauth} {
		k, count := c.countCall(status)
		if err := ask(k); err != nil {
			return p, err
		}
		*n = *count
	}
	if b := c.token.current(); b != nil {
		p.TokenExpires = tokenExpiry(b.token)
	}
	return p, nil
}

// unwell makes an outage of whatever kept a probe from its answer.
func unwell(err error) error {
	if isOutage(err) {
		return err
	}
	return &pipeline.Outage{Part: pipeline.PartServer, Err: err, Hint: errorHint(err)}
}

// limitCall reads GET /limits/max_devices. Servers without limits answer 404.
func limitCall(limit *int) *call {
	return &call{
		method: http.MethodGet, path: apiPath + "/limits/max_devices",
		settles: []int{http.StatusOK, http.StatusNotFound},
		decode: func(a *answer) error {
			if a.status == http.StatusNotFound {
				return nil
			}
			var body struct {
				Limit *int `json:"limit"`
			}
			if json.Unmarshal(a.body, &body) != nil || body.Limit == nil {
				return errGarbled
			}
			*limit = *body.Limit
			return nil
		},
	}
}

func (p *Probe) describe(k *call) {
	p.Latency, p.Protocol = k.took, k.proto
	if date, err := http.ParseTime(k.header.Get("Date")); err == nil {
		// Date is cut to the second; the answer was written half a round trip ago.
		p.Skew = k.received.Add(-k.took / 2).Sub(date.Add(time.Second / 2))
	}
	if k.tls == nil {
		return
	}
	p.TLS = tls.VersionName(k.tls.Version)
	if len(k.tls.PeerCertificates) > 0 {
		leaf := k.tls.PeerCertificates[0]
		p.CertExpires, p.CertIssuer = leaf.NotAfter, leaf.Issuer.String()
	}
}

// Concern is something about the server that a lot will run into.
type Concern struct {
	Text string
	Hint string
	// Fatal: the lot can't come to a good end.
	Fatal bool
}

// Concerns compares what was found with a lot that adds so many devices and
// will take so long, at the time now.
func (p *Probe) Concerns(adds int, takes time.Duration, now time.Time) []Concern {
	var found []Concern
	if left := p.MaxDevices - p.Accepted - p.Preauth; p.MaxDevices > 0 && adds > left {
		found = append(found, Concern{
			Text: fmt.Sprintf("the server's limit is %d devices, %d are taken, the lot adds %d", p.MaxDevices, p.Accepted+p.Preauth, adds),
			Hint: "The server would take them all, and the surplus would be refused in the field: raise the limit, or make the lot smaller.", Fatal: true,
		})
	}
	if !p.TokenExpires.IsZero() && p.TokenExpires.Before(now.Add(takes)) {
		found = append(found, Concern{
			Text: fmt.Sprintf("the token expires %s, before the lot is done", p.TokenExpires.UTC().Format(time.RFC3339)),
			Hint: "Put a newer token into the token file; it is read again when the old one is refused.", Fatal: p.TokenExpires.Before(now),
		})
	}
	if p.Skew.Abs() > time.Minute {
		found = append(found, Concern{
			Text: fmt.Sprintf("this machine's clock and the server's differ by %s", p.Skew.Round(time.Second)),
			Hint: "Set this machine's clock (NTP): certificates, tokens and the audit's times depend on it.",
		})
	}
	if !p.CertExpires.IsZero() && p.CertExpires.Before(now.Add(takes)) {
		found = append(found, Concern{
			Text: fmt.Sprintf("the server's certificate expires %s, before the lot is done", p.CertExpires.UTC().Format(time.RFC3339)),
			Hint: "Have it renewed; the lot would stop and go on afterwards.",
		})
	}
	return found
}

// tokenExpiry reads exp from the payload of a JWT (RFC 7519, section 4.1.4),
// without checking any signature: the server does that. Zero if there is none.
func tokenExpiry(token string) time.Time {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Exp float64 `json:"exp"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Exp <= 0 || claims.Exp > 1<<40 {
		return time.Time{}
	}
	return time.Unix(int64(claims.Exp), 0)
}
