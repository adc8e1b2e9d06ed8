package sandbox

import (
	"fmt"
	"slices"

	"keymill/pipeline"
)

// Version says which of Mender's open-source device-authentication services
// the sandbox answers like.
type Version string

// The versions. They differ in what is said at the places where the sandbox
// asks for Config.Version; everything else is the same.
const (
	// Main is the service on its main branch in August 2026, which hosted Mender
	// runs, too.
	Main Version = "main"
	// Mender41 is release 4.1.
	Mender41 Version = "4.1"
)

// ParseVersion reads a version's name.
func ParseVersion(name string) (Version, error) {
	if v := Version(name); v == Main || v == Mender41 {
		return v, nil
	}
	return "", pipeline.WithHint(fmt.Errorf("the sandbox can't play Mender %q", name), "It plays 4.1 and main.")
}

// Tiers are the device tiers of hosted Mender and Mender Enterprise. The empty
// one counts as the first.
var tierNames = [...]string{"standard", "micro", "system"}

func isTier(name string) bool { return slices.Contains(tierNames[:], name) }

// takesTiers reports whether the sandbox plays a service with device tiers.
func (cfg *Config) takesTiers() bool { return cfg.TierLimits != nil }

// tierOf returns the tier that a request names, the default one for none; ""
// where the service knows no tiers, as unknown members are ignored.
func (cfg *Config) tierOf(name string) (string, error) {
	switch {
	case !cfg.takesTiers():
		return "", nil
	case name == "":
		return tierNames[0], nil
	case !isTier(name):
		return "", fmt.Errorf("tier: must be one of %s, %s or %s", tierNames[0], tierNames[1], tierNames[2])
	}
	return name, nil
}

// unlimited is the limit that isn't there.
const unlimited = -1

// limitOf returns how many devices of a tier may be accepted, unlimited (-1)
// for any number.
func (cfg *Config) limitOf(tier string) int {
	if !cfg.takesTiers() {
		if cfg.MaxDevices == 0 {
			return unlimited
		}
		return cfg.MaxDevices
	}
	if limit, ok := cfg.TierLimits[tier]; ok {
		return limit
	}
	return unlimited
}
