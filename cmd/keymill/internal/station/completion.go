package station

import (
	"context"
	"slices"
	"strings"
	"time"

	"keymill/pipeline/ledger"
)

const (
	devicesOffered = 100         // nobody reads more
	devicesWait    = time.Second // nobody waits longer
)

// DevicesLike returns what names devices of a lot, identity values and serial
// numbers, and begins like what was typed.
func DevicesLike(ctx context.Context, known *ledger.Ledger, lot, typed string) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, devicesWait)
	defer cancel()
	begins := func(value string) bool {
		return len(value) >= len(typed) && strings.EqualFold(value[:len(typed)], typed)
	}
	for rec, err := range known.Records(ctx, lot) {
		if err != nil || len(names) >= devicesOffered {
			break
		}
		for _, attr := range slices.Concat(rec.Identity, rec.Attrs) {
			named := attr.Name == "serial" || slices.Contains(rec.Identity, attr)
			if named && begins(attr.Value) && !slices.Contains(names, attr.Value) && (typed != "" || attr.Value == rec.Identity.Name()) {
				names = append(names, attr.Value)
			}
		}
	}
	return names
}
