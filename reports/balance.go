package reports

import (
	"fmt"

	"keymill/pipeline"
)

// Balance is a lot's account: what went in must equal what came out. Its JSON
// is part of the signed statement.
type Balance struct {
	Rows     int `json:"rows"`
	Released int `json:"released"`
	Failed   int `json:"failed"`
	Conflict int `json:"conflict"`
	Undone   int `json:"undone"`
	Open     int `json:"open"` // planned, staged or preauthorized

	KeysGenerated int `json:"keys_generated"`
	KeysInImages  int `json:"keys_in_images"`
	KeysDestroyed int `json:"keys_destroyed"`
	KeysStaged    int `json:"keys_staged"` // lie in the pack of a device that is not released

	AuthSetsMade     int `json:"auth_sets_made"`
	AuthSetsReleased int `json:"auth_sets_released"`
	AuthSetsLeft     int `json:"auth_sets_left"` // of failed and conflicting devices: left on purpose
}

// standing is what a device adds to the balance.
type standing struct {
	state                pipeline.State
	generated, destroyed int  // keys
	staged               bool // a key lies in the pack, not in an image that is out
	authSet              bool
}

func standingOf(r *pipeline.Record) standing {
	return standing{r.State, r.KeysGenerated, r.KeysDestroyed, keyStaged(r), r.Auth.Status != ""}
}

func keyStaged(r *pipeline.Record) bool {
	return r.State != pipeline.Released && r.State != pipeline.Undone && !r.Pack.IsZero()
}

// add counts one device.
func (b *Balance) add(d standing) {
	b.Rows++
	b.KeysGenerated += d.generated
	b.KeysDestroyed += d.destroyed
	if d.staged {
		b.KeysStaged++
	}
	authSet := d.authSet
	switch d.state {
	case pipeline.Released:
		b.Released++
		b.KeysInImages++
	case pipeline.Failed:
		b.Failed++
	case pipeline.Conflicted:
		b.Conflict++
	case pipeline.Undone:
		b.Undone++
		authSet = false
	default:
		b.Open++
	}
	if !authSet {
		return
	}
	b.AuthSetsMade++
	switch d.state {
	case pipeline.Released:
		b.AuthSetsReleased++
	case pipeline.Failed, pipeline.Conflicted:
		b.AuthSetsLeft++
	}
}

// Check returns what does not add up; nothing means that the lot may close.
// rows is the number of manifest rows.
func (b *Balance) Check(rows int) []string {
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if b.Rows != rows {
		say("the manifest has %d rows, the ledger %d devices", rows, b.Rows)
	}
	if b.Open > 0 {
		say("%d devices are neither released nor failed", b.Open)
	}
	if sum := b.Released + b.Failed + b.Conflict + b.Undone + b.Open; sum != b.Rows {
		say("%d devices, but released, failed, conflict and undone make %d", b.Rows, sum)
	}
	if sum := b.KeysInImages + b.KeysDestroyed + b.KeysStaged; sum != b.KeysGenerated {
		say("%d keys were generated, but %d are in images, %d destroyed and %d staged",
			b.KeysGenerated, b.KeysInImages, b.KeysDestroyed, b.KeysStaged)
	}
	if live := b.KeysGenerated - b.KeysDestroyed; live > rows {
		say("over-production: %d living keys for %d rows", live, rows)
	}
	if sum := b.AuthSetsReleased + b.AuthSetsLeft; sum != b.AuthSetsMade {
		say("%d auth sets were made, but %d are released and %d left with failed devices",
			b.AuthSetsMade, b.AuthSetsReleased, b.AuthSetsLeft)
	}
	return wrong
}
