package mender

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
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
	// Roles are those of the token's user, where the server has roles; nil if it
	// has none or doesn't say.
	Roles []string
	// Limit is how many devices of Tier may be accepted.
	Limit Limit
	// MaxDevices is Limit's number, 0 where there is no limit or none is known.
	MaxDevices int
	Devices    int // registered, of all statuses and tiers
	Accepted   int // of these, accepted (of Tier, where the server tells)
	Preauth    int // of these, preauthorized, of all tiers
	// Tier is the tier that is wanted; Tiers is whether the server knows tiers,
	// TiersKnown whether that could be found out.
	Tier              string
	Tiers, TiersKnown bool
	// Inventory reports whether the server has an inventory.
	Inventory bool
	// Skew is this machine's clock minus the server's, to half a second or so;
	// zero if the server doesn't tell its time.
	Skew        time.Duration
	Latency     time.Duration // of the last request
	Protocol    string        // HTTP/1.1 or HTTP/2.0
	TLS         string        // version, empty for transports without
	CertExpires time.Time     // of the server's certificate; zero if unknown
	CertIssuer  string
	CertBegins  time.Time // zero if unknown
	CAExpires   time.Time // of the CA that this machine trusts; zero if unknown
	CASubject   string
}

// Limit is what a server says about how many devices may be accepted.
type Limit struct {
	Name string // max_devices, or a tier's
	// Kind says what the number means, which depends on the server's age: 0 was
	// "no limit" until spring 2026, and since then is "none at all", as for tiers
	// that a plan doesn't have; no limit is -1 now.
	Kind LimitKind
	Max  int // the server's number
}

// LimitKind is what a limit's number means.
type LimitKind int

// The kinds.
const (
	LimitUnknown LimitKind = iota // the server has no such limit, or doesn't tell
	LimitNone                     // any number of devices
	LimitMax                      // so many; 0: none at all
	LimitUnclear                  // 0, and it can't be told which of the two it means
)

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
	if err := c.probeLimit(ask, &p); err != nil {
		return p, err
	}
	for status, n := range map[string]*int{"": &p.Devices, StatusAccepted: &p.Accepted, StatusPreauthorized: &p.Preauth} {
		k, count := c.countCall(status)
		if err := ask(k); err != nil {
			return p, err
		}
		*n = *count
	}
	if err := c.probeTiers(ask, &p); err != nil {
		return p, err
	}
	if err := c.probeRest(ask, &p); err != nil {
		return p, err
	}
	if b := c.token.current(); b != nil {
		p.TokenExpires = tokenExpiry(b.token)
	}
	return p, nil
}

// probeLimit reads the limit of the wanted tier.
func (c *Client) probeLimit(ask func(*call) error, p *Probe) error {
	p.Tier = c.tierWanted()
	p.Limit.Name = "max_devices"
	if p.Tier != TierStandard {
		p.Limit.Name = "max_" + p.Tier + "_devices"
	}
	k := limitCall(&p.Limit)
	if err := ask(k); err != nil {
		return err
	}
	p.describe(k)
	return nil
}

// probeTiers finds out whether the server knows tiers, from a device that it has
// or, where it has none yet, from whether it has limits for them.
func (c *Client) probeTiers(ask func(*call) error, p *Probe) error {
	k := &call{
		method: http.MethodGet, path: apiPath + "/devices", query: "per_page=1", settles: []int{http.StatusOK},
		maxBody: maxListBody,
		decode: func(a *answer) error {
			devices, err := parseDevices(a.body)
			c.seenTiers(devices)
			return err
		},
	}
	if err := ask(k); err != nil {
		return err
	}
	p.Tiers, p.TiersKnown = c.tiersKnown()
	if !p.TiersKnown && p.Tier != TierStandard && p.Limit.Kind != LimitUnknown {
		p.Tiers, p.TiersKnown = true, true
	}
	return nil
}

// probeRest asks for what a server may have or not: the inventory and its
// statistics, and roles. Refusals mean that it hasn't.
func (c *Client) probeRest(ask func(*call) error, p *Probe) error {
	statistics, counts := optional(inventoryV2+"/statistics"), statisticsBody{}
	statistics.decode = func(a *answer) error {
		_ = json.Unmarshal(a.body, &counts) // what isn't there stays unknown
		return nil
	}
	groups := optional(inventoryV1 + "/groups")
	me, roles := optional(userPath), struct {
		Roles []string `json:"roles"`
	}{}
	me.decode = func(a *answer) error {
		if a.status == http.StatusOK {
			_ = json.Unmarshal(a.body, &roles)
		}
		return nil
	}
	for _, k := range []*call{statistics, groups, me} {
		if err := ask(k); err != nil {
			return err
		}
	}
	p.Inventory = groups.status == http.StatusOK
	p.Roles = roles.Roles
	if n, ok := counts.ByStatus.Accepted[p.Tier]; ok && p.Tiers {
		p.Accepted = n
	}
	if p.Limit.Kind == LimitUnclear {
		switch {
		case statistics.status == http.StatusNotFound && p.Inventory:
			p.Limit.Kind = LimitNone // a server from before -1 was the word for it
		case statistics.status == http.StatusOK && p.Accepted == 0:
			p.Limit.Kind = LimitMax
		}
	}
	if p.Limit.Kind == LimitMax {
		p.MaxDevices = p.Limit.Max
	}
	return nil
}

// statisticsBody is the answer of GET /statistics of the inventory.
type statisticsBody struct {
	ByStatus struct {
		Accepted map[string]int `json:"accepted"`
	} `json:"devices_by_status"`
}

// optional is a GET of something that a server may not have, or not let us see.
func optional(path string) *call {
	return &call{
		method: http.MethodGet, path: path, optional: true,
		settles: []int{http.StatusOK, http.StatusNoContent, http.StatusNotFound, http.StatusForbidden,
			http.StatusMethodNotAllowed, http.StatusBadRequest, http.StatusInternalServerError},
	}
}

// unwell makes an outage of whatever kept a probe from its answer.
func unwell(err error) error {
	if isOutage(err) {
		return err
	}
	return &pipeline.Outage{Part: pipeline.PartServer, Err: err, Hint: errorHint(err)}
}

// limitCall reads GET /limits/NAME. Servers without that limit answer 400 or 404.
func limitCall(limit *Limit) *call {
	return &call{
		method: http.MethodGet, path: apiPath + "/limits/" + limit.Name,
		settles: []int{http.StatusOK, http.StatusNotFound, http.StatusBadRequest},
		decode: func(a *answer) error {
			if a.status != http.StatusOK {
				limit.Kind = LimitUnknown
				return nil
			}
			var body struct {
				Limit *int `json:"limit"`
			}
			if json.Unmarshal(a.body, &body) != nil || body.Limit == nil {
				return errGarbled
			}
			limit.Max = *body.Limit
			switch {
			case limit.Max < 0:
				limit.Kind = LimitNone
			case limit.Max == 0:
				limit.Kind = LimitUnclear
			default:
				limit.Kind = LimitMax
			}
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
		p.CertBegins, p.CertExpires, p.CertIssuer = leaf.NotBefore, leaf.NotAfter, leaf.Issuer.String()
	}
	for _, chain := range k.tls.VerifiedChains {
		if root := chain[len(chain)-1]; root.NotAfter.After(p.CAExpires) {
			p.CAExpires, p.CASubject = root.NotAfter, root.Subject.String()
		}
	}
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
