package mender

import (
	"context"

	"keymill/pipeline"
)

// Holds says of each key whether the server has it as an auth set of its
// identity, in whatever status. Devices whose id isn't known are looked for in
// the server's listing.
func (c *Client) Holds(ctx context.Context, keys []pipeline.HeldKey) ([]bool, error) {
	held := make([]bool, len(keys))
	// A comparison is about one key for each identity; there may be several here.
	for left := indexes(len(keys)); len(left) > 0; {
		round := map[pipeline.IdentitySum]int{}
		var expected []Expected
		var later []int
		for _, i := range left {
			sum := keys[i].Identity.Sum()
			if _, taken := round[sum]; taken {
				later = append(later, i)
				continue
			}
			round[sum] = i
			expected = append(expected, Expected{Identity: keys[i].Identity, SPKI: keys[i].SPKI, DeviceID: keys[i].DeviceID})
		}
		for f, err := range c.Verify(ctx, withoutErrors(expected), VerifyOptions{}) {
			if err != nil {
				return nil, err
			}
			if i, ok := round[f.Identity.Sum()]; ok {
				held[i] = f.Ours != ""
			}
		}
		left = later
	}
	return held, nil
}

func indexes(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}
