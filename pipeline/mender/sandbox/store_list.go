package sandbox

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"time"
)

// Ids look like random UUIDs but end in what they number, so that no index of a
// million ids is needed. What they number is scrambled in with the seed.
const (
	deviceIDs   = 1
	setIDs      = 2
	noDeviceIDs = 3
)

func (st *store) deviceID(number uint64) string   { return st.id(deviceIDs, number) }
func (st *store) setID(number uint64) string      { return st.id(setIDs, number) }
func (st *store) noDeviceID(number uint64) string { return st.id(noDeviceIDs, number) }

const idLength = 36

func (st *store) id(kind, number uint64) string {
	var raw [16]byte
	salt := mix(st.seed + kind)
	binary.BigEndian.PutUint64(raw[:], mix(salt^number))
	// 48 bits of number, 16 of noise.
	binary.BigEndian.PutUint64(raw[8:], mix(salt+number)<<48|number)
	raw[6] = raw[6]&0x0f | 0x40
	raw[8] = raw[8]&0x3f | 0x80
	return string(appendUUID(make([]byte, 0, idLength), raw))
}

// number is the inverse of deviceID.
func (st *store) number(id string) (uint64, bool) {
	if len(id) != idLength {
		return 0, false
	}
	var tail [6]byte
	if _, err := hex.Decode(tail[:], []byte(id[24:])); err != nil {
		return 0, false
	}
	number := uint64(binary.BigEndian.Uint16(tail[:]))<<32 | uint64(binary.BigEndian.Uint32(tail[2:]))
	return number, st.deviceID(number) == id
}

func appendUUID(dst []byte, raw [16]byte) []byte {
	for i, part := range [...][]byte{raw[:4], raw[4:6], raw[6:8], raw[8:10], raw[10:]} {
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, part)
	}
	return dst
}

// appendDevice appends a device as the API shows it. Without sets auth_sets is
// null, as in the answer to a conflict. The shard must be locked.
func (st *store) appendDevice(dst []byte, d *device, sets bool) []byte {
	if dst == nil {
		dst = make([]byte, 0, 1024)
	}
	dst = append(dst, `{"id":"`...)
	dst = append(dst, st.deviceID(d.number)...)
	dst = append(dst, `","identity_data":`...)
	dst = append(dst, d.identity...)
	dst = append(dst, `,"status":"`...)
	dst = append(dst, d.status.String()...)
	dst = append(dst, `","decommissioning":`...)
	if d.decommissioning {
		dst = append(dst, `true`...)
	} else {
		dst = append(dst, `false`...)
	}
	dst = appendTime(append(dst, `,"created_ts":`...), d.created)
	dst = appendTime(append(dst, `,"updated_ts":`...), d.updated)
	if d.tier != "" {
		dst = append(append(append(dst, `,"tier":"`...), d.tier...), '"')
	}
	if d.status == accepted && st.version != Mender41 {
		dst = appendTime(append(dst, `,"check_in_time":`...), d.updated)
	}
	if !sets {
		return append(dst, `,"auth_sets":null}`...)
	}
	dst = append(dst, `,"auth_sets":[`...)
	for i, s := range d.sets {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, `{"id":"`...), st.setID(s.number)...), `","identity_data":`...)
		dst = append(append(dst, d.identity...), `,"pubkey":"`...)
		dst = append(appendPEM(dst, s.spki), `","ts":`...)
		dst = append(appendTime(dst, s.at), `,"status":"`...)
		dst = append(append(dst, s.status.String()...), '"')
		if s.tier != "" {
			dst = append(append(append(dst, `,"tier":"`...), s.tier...), '"')
		}
		dst = append(dst, '}')
	}
	return append(dst, `]}`...)
}

func appendTime(dst []byte, micro int64) []byte {
	return append(appendTimeText(append(dst, '"'), micro), '"')
}

func appendTimeText(dst []byte, micro int64) []byte {
	return time.UnixMicro(micro).UTC().AppendFormat(dst, time.RFC3339Nano)
}

// filter is what the list and the search can filter by.
type filter struct {
	statuses []status // none: all
	ids      []string // none: all
}

func (f *filter) admits(s status) bool {
	return len(f.statuses) == 0 || slices.Contains(f.statuses, s)
}

// page appends a JSON array of at most limit devices after the first skip ones,
// ordered by status and place, and says whether there are more.
func (st *store) page(f filter, skip, limit int) (list []byte, more bool) {
	w := &pageWriter{st: st, skip: skip, left: limit, list: make([]byte, 0, 4096)}
	w.list = append(w.list, '[')
	for s := range statusCount {
		if !f.admits(s) {
			continue
		}
		if len(f.ids) > 0 {
			w.some(s, f.ids)
			continue
		}
		for i := range st.shards {
			w.shard(&st.shards[i], s)
		}
	}
	return append(w.list, ']'), w.more
}

type pageWriter struct {
	st   *store
	skip int
	left int
	more bool
	list []byte
}

// shard takes what it needs from one shard. Whole shards are skipped by count.
func (w *pageWriter) shard(sh *shard, s status) {
	if w.more {
		return
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.counts[s] <= w.skip {
		w.skip -= sh.counts[s]
		return
	}
	for _, d := range sh.byPosition {
		if d != nil && d.status == s && !w.take(d) {
			return
		}
	}
}

// some takes the named devices that have the status.
func (w *pageWriter) some(s status, ids []string) {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		d, sh := w.st.lock(id)
		if d == nil {
			continue
		}
		goOn := d.status != s || w.take(d)
		sh.mu.Unlock()
		if !goOn {
			return
		}
	}
}

// take appends a device unless it is to be skipped; false ends the page.
func (w *pageWriter) take(d *device) bool {
	switch {
	case w.skip > 0:
		w.skip--
		return true
	case w.left == 0:
		w.more = true
		return false
	}
	if len(w.list) > 1 {
		w.list = append(w.list, ',')
	}
	w.list = w.st.appendDevice(w.list, d, true)
	w.left--
	return true
}

// count returns how many devices have the status.
func (st *store) count(s status) int {
	n := 0
	for i := range st.shards {
		st.shards[i].mu.Lock()
		n += st.shards[i].counts[s]
		st.shards[i].mu.Unlock()
	}
	return n
}

// countAll counts by status; statuses without devices are left out.
func (st *store) countAll() map[string]int {
	st.reap(time.Now())
	all := map[string]int{}
	for s := range statusCount {
		if n := st.count(s); n > 0 {
			all[s.String()] = n
		}
	}
	return all
}
