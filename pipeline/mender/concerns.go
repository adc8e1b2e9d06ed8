package mender

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Concern is something about the server that a lot will run into.
type Concern struct {
	Kind ConcernKind `json:"kind"`
	Text string      `json:"text"`
	Hint string      `json:"hint"`
	// Fatal: the lot can't come to a good end.
	Fatal bool `json:"fatal"`
}

// ConcernKind says what a concern is about.
type ConcernKind string

// The kinds.
const (
	ConcernLimit       ConcernKind = "limit"
	ConcernToken       ConcernKind = "token"
	ConcernRights      ConcernKind = "rights"
	ConcernClock       ConcernKind = "clock"
	ConcernCertificate ConcernKind = "certificate"
	ConcernIdentity    ConcernKind = "identity"
	ConcernTier        ConcernKind = "tier"
	ConcernInventory   ConcernKind = "inventory"
)

// LotPlan is what a lot wants of the server.
type LotPlan struct {
	Adds  int           // devices that it adds
	Takes time.Duration // how long it will take
	// Drawer is how long its devices may lie unused before their first boot; 0:
	// nothing is said about that time.
	Drawer         time.Duration
	Identity       []string // the names of its identity attributes
	Inventory      bool     // it sets names, groups or tags
	AllowOverLimit bool     // somebody has said that the limit doesn't matter
}

// Concerns compares what was found with what a lot wants, at the time now.
func (p *Probe) Concerns(lot LotPlan, now time.Time) []Concern {
	found := p.limitConcerns(lot)
	if !p.TokenExpires.IsZero() && p.TokenExpires.Before(now.Add(lot.Takes)) {
		found = append(found, Concern{
			Kind: ConcernToken,
			Text: fmt.Sprintf("the server token expires %s, before the lot is done", when(p.TokenExpires)),
			Hint: "Put a newer token into the token file; it is read again when the old one is refused.",
		})
	}
	if p.Skew.Abs() > time.Minute {
		found = append(found, Concern{
			Kind: ConcernClock,
			Text: fmt.Sprintf("this machine's clock and the server's differ by %s", p.Skew.Round(time.Second)),
			Hint: "Set this machine's clock (NTP): certificates, tokens and the audit's times depend on it.",
		})
	}
	found = append(found, p.rightsConcerns()...)
	found = append(found, p.certificateConcerns(lot, now)...)
	for _, name := range lot.Identity {
		if strings.Contains(name, "=") {
			found = append(found, Concern{
				Kind: ConcernIdentity,
				Text: fmt.Sprintf("the name of the identity attribute %q holds an equals sign", name),
				Hint: "The client's identity script prints NAME=VALUE, and the client cuts at the first sign: no device can report such an attribute. Map the column to another name.",
			})
		}
	}
	if p.Tier != TierStandard && p.Tier != "" && p.TiersKnown && !p.Tiers {
		found = append(found, Concern{
			Kind: ConcernTier,
			Text: fmt.Sprintf("the server knows no device tiers; server.tier is %s", p.Tier),
			Hint: "Devices are preauthorized without a tier there. Open-source servers have none; take the setting out, or check server.url.",
		})
	}
	if lot.Inventory && !p.Inventory {
		found = append(found, Concern{
			Kind: ConcernInventory,
			Text: "the server has no inventory, or the token may not use it; server.device can't be set",
			Hint: "Devices are released all the same; `keymill retry --inventory` sets it later.",
		})
	}
	return found
}

// limitConcerns counts what the limit counts: devices that are accepted, and
// those that will be as soon as they boot.
func (p *Probe) limitConcerns(lot LotPlan) []Concern {
	var text, hint string
	taken := p.Accepted + p.Preauth
	switch {
	case lot.Adds <= 0:
		return nil
	case p.Limit.Kind == LimitUnclear:
		text = fmt.Sprintf("the server says that its limit %s is 0, which is \"no limit\" on servers before spring 2026, and \"none\" on later ones", p.Limit.Name)
		hint = "Ask whoever runs the server, or look into its user interface: are there devices to be had in this plan? If so, set server.over_limit: allow."
	case p.Limit.Kind != LimitMax || taken+lot.Adds <= p.Limit.Max:
		return nil
	case p.Limit.Max == 0:
		text = fmt.Sprintf("the server's limit %s is 0: it accepts no %s devices", p.Limit.Name, p.Tier)
		hint = "The plan has none of this tier: choose another with server.tier (and DeviceTier in the image), or have the plan changed."
	default:
		text = fmt.Sprintf("the server's limit is %d devices (%s): %d are accepted, %d preauthorized, the lot adds %d, which is %d too many",
			p.Limit.Max, p.Limit.Name, p.Accepted, p.Preauth, lot.Adds, taken+lot.Adds-p.Limit.Max)
		hint = "The server would preauthorize them all and refuse the surplus in the field: have the limit raised, remove devices, or make the lot smaller. server.over_limit: allow goes on in spite of it."
	}
	return []Concern{{Kind: ConcernLimit, Text: text, Hint: hint, Fatal: !lot.AllowOverLimit}}
}

// weakRoles returns roles of Mender Enterprise that don't let their users manage
// device authentication. Roles that a customer has made are not judged.
func weakRoles() []string {
	return []string{"RBAC_ROLE_OBSERVER", "RBAC_ROLE_CI", "RBAC_ROLE_REMOTE_TERMINAL", "RBAC_ROLE_DEPLOYMENTS_MANAGER"}
}

func (p *Probe) rightsConcerns() []Concern {
	weak := func(role string) bool { return slices.Contains(weakRoles(), role) }
	if len(p.Roles) == 0 || slices.ContainsFunc(p.Roles, func(role string) bool { return !weak(role) }) {
		return nil
	}
	return []Concern{{
		Kind: ConcernRights,
		Text: fmt.Sprintf("the server token's user has only roles that don't preauthorize devices: %s", clean(strings.Join(p.Roles, ", "), 200)),
		Hint: "Give the user a role with the permission to manage devices, or use another user's token.",
	}}
}

const (
	// renewedOften is the lifetime up to which certificates are renewed by
	// machines: that one ends says nothing about the next year.
	renewedOften = 120 * 24 * time.Hour
)

func (p *Probe) certificateConcerns(lot LotPlan, now time.Time) []Concern {
	var found []Concern
	first := now.Add(lot.Takes)
	boot := first.Add(lot.Drawer)
	switch {
	case p.CertExpires.IsZero():
	case p.CertExpires.Before(first):
		found = append(found, Concern{
			Kind: ConcernCertificate,
			Text: fmt.Sprintf("the server's certificate expires %s, before the lot is done", when(p.CertExpires)),
			Hint: "Have it renewed; the lot would stop and go on afterwards.",
		})
	case lot.Drawer > 0 && p.CertExpires.Before(boot) && p.CertExpires.Sub(p.CertBegins) > renewedOften:
		found = append(found, Concern{
			Kind: ConcernCertificate,
			Text: fmt.Sprintf("the server's certificate expires %s, while devices of this lot may still wait for their first boot", when(p.CertExpires)),
			Hint: "See that it is renewed in time and by the same CA: devices that can't check it can't connect.",
		})
	}
	if lot.Drawer > 0 && !p.CAExpires.IsZero() && p.CAExpires.Before(boot) {
		found = append(found, Concern{
			Kind: ConcernCertificate,
			Text: fmt.Sprintf("the CA of the server's certificate (%s) expires %s, while devices of this lot may still wait for their first boot", clean(p.CASubject, 100), when(p.CAExpires)),
			Hint: "Put the CA that follows it into the image, too, or devices that trust only this one can't connect any more.",
		})
	}
	return found
}

func when(t time.Time) string { return t.UTC().Format(time.RFC3339) }
