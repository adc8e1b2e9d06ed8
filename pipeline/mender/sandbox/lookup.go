package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// lookup is a search as people do it on the page.
type lookup struct {
	text   string // lower case; part of the identity, or of an id or a fingerprint
	isHex  bool   // text can be part of an id or a fingerprint
	status status // statusCount: any
}

// shortestHex is from how many characters on a search looks into ids and
// fingerprints, where short ones match everywhere.
const shortestHex = 6

func newLookup(text, statusName string) lookup {
	l := lookup{text: strings.ToLower(text), status: statusCount}
	l.isHex = len(l.text) >= shortestHex && strings.Trim(l.text, "0123456789abcdef-") == ""
	if s, ok := parseStatus(statusName); ok {
		l.status = s
	}
	return l
}

// matches says whether a device is wanted. Its shard must be locked.
func (l *lookup) matches(st *store, d *device) bool {
	if l.status != statusCount && d.status != l.status {
		return false
	}
	if l.text == "" || strings.Contains(strings.ToLower(string(d.identity)), l.text) {
		return true
	}
	if !l.isHex {
		return false
	}
	if strings.Contains(st.deviceID(d.number), l.text) {
		return true
	}
	return slices.ContainsFunc(d.sets, func(s authSet) bool {
		sum := sha256.Sum256([]byte(s.spki))
		return strings.HasPrefix(hex.EncodeToString(sum[:]), l.text) || strings.HasPrefix(st.setID(s.number), l.text)
	})
}

// foundDevice is a device with the time of its registration.
type foundDevice struct {
	Device
	created int64 // Unix microseconds
}

// look returns at most limit devices after the first skip ones, newest first,
// and how many match in all.
func (st *store) look(l lookup, skip, limit int) (found []foundDevice, matches int) {
	type candidate struct {
		created int64
		number  uint64
	}
	var newest []candidate
	for i := range st.shards {
		sh := &st.shards[i]
		sh.mu.Lock()
		kept := 0
		for _, d := range slices.Backward(sh.byPosition) {
			if d == nil || !l.matches(st, d) {
				continue
			}
			matches++
			if kept < skip+limit {
				newest = append(newest, candidate{d.created, d.number})
				kept++
			}
		}
		sh.mu.Unlock()
	}
	slices.SortFunc(newest, func(a, b candidate) int {
		if a.created != b.created {
			return int(b.created - a.created)
		}
		return int(b.number) - int(a.number)
	})
	for _, c := range newest[min(skip, len(newest)):min(skip+limit, len(newest))] {
		sh := &st.shards[c.number%shardCount]
		sh.mu.Lock()
		if d := sh.at(c.number); d != nil {
			found = append(found, foundDevice{st.export(d), d.created})
		}
		sh.mu.Unlock()
	}
	return found, matches
}
