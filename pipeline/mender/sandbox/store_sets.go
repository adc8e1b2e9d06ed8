package sandbox

import (
	"errors"
	"slices"
	"time"
)

// Why the store did not do what it was asked.
var (
	errExists   = errors.New("device already exists")
	errNoDevice = errors.New("device not found")
	errNoSet    = errors.New("authentication set not found")
	errStore    = errors.New("internal error")
	errStatus   = errors.New("dev auth: bad request")
	errRefused  = errors.New("dev auth: unauthorized")
	errTooMany  = errors.New("maximum number of accepted devices reached")
)

// danglingSet returns an auth set with that key which an earlier device of the
// identity left behind, and its owner. The shard must be locked.
func (sh *shard) danglingSet(sum identitySum, key setKey) (*device, *authSet) {
	for _, d := range sh.dangling[sum] {
		if set := d.byKey(key); set != nil {
			return d, set
		}
	}
	return nil, nil
}

// preauthorize registers a device with one preauthorized auth set. It returns
// the id for the answer's Location. For an identity that exists it returns
// errExists and the device's JSON, or, with force, upserts the auth set and
// returns an id that belongs to nothing, as the service does. With orphan it
// stops after the device and returns errStore.
func (st *store) preauthorize(id identity, key setKey, force, orphan bool) (location string, existing []byte, err error) {
	sum := id.sum()
	sh := st.shardOf(sum)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	d := sh.byIdentity[sum]
	switch {
	case d != nil && !force:
		return "", st.appendDevice(nil, d, false), errExists
	case d != nil:
		return st.force(sh, sum, d, key), nil, nil
	}
	d = st.add(sum, id, preauthorized)
	defer st.keep(d)
	if orphan {
		return "", nil, errStore
	}
	if _, left := sh.danglingSet(sum, key); left != nil {
		return "", st.appendDevice(nil, d, false), errExists
	}
	d.tier = key.tier
	st.tell(eventStatusChanged, d, st.addSet(d, key, preauthorized))
	return st.deviceID(d.number), nil, nil
}

// force makes the key a preauthorized auth set of an existing device, whose own
// status stays. The shard must be locked.
func (st *store) force(sh *shard, sum identitySum, d *device, key setKey) (location string) {
	if owner, set := sh.danglingSet(sum, key); set != nil {
		set.status = preauthorized
		st.keep(owner)
	} else if set := d.byKey(key); set != nil {
		set.status = preauthorized
	} else {
		st.addSet(d, key, preauthorized)
	}
	st.keep(d)
	return st.noDeviceID(st.sets.Add(1))
}

// decommissionDevice begins to delete a device.
func (st *store) decommissionDevice(id string) error {
	d, sh := st.lock(id)
	if d == nil {
		return errNoDevice
	}
	defer sh.mu.Unlock()
	if st.decommission == 0 {
		d.sets = nil
		st.remove(sh, d)
		return nil
	}
	if !d.decommissioning {
		d.decommissioning = true
		st.keep(d)
		st.doom(d.number)
	}
	return nil
}

// doom plans the end of a deletion.
func (st *store) doom(number uint64) {
	st.doomMu.Lock()
	defer st.doomMu.Unlock()
	at := time.Now().Add(st.decommission).UnixNano()
	if len(st.doomed) == 0 {
		st.doomAt.Store(at)
	}
	st.doomed = append(st.doomed, doom{at, number})
}

// reap finishes the deletions that are due. Every request calls it, so that no
// goroutine has to wait for them.
func (st *store) reap(now time.Time) {
	if at := st.doomAt.Load(); at == 0 || at > now.UnixNano() {
		return
	}
	st.doomMu.Lock()
	due := 0
	for due < len(st.doomed) && st.doomed[due].at <= now.UnixNano() {
		due++
	}
	ended := slices.Clone(st.doomed[:due])
	st.doomed = slices.Delete(st.doomed, 0, due)
	st.doomAt.Store(0)
	if len(st.doomed) > 0 {
		st.doomAt.Store(st.doomed[0].at)
	}
	st.doomMu.Unlock()
	for _, e := range ended {
		sh := &st.shards[e.number%shardCount]
		sh.mu.Lock()
		if d := sh.at(e.number); d != nil {
			d.sets = nil
			st.remove(sh, d)
		}
		sh.mu.Unlock()
	}
}

// deleteSet removes one auth set. A preauthorized one takes its device along: on
// main if it was the last, on 4.1 whatever other sets there are. Those are left
// dangling, and removing them later fails although it works.
func (st *store) deleteSet(deviceID, setID string) error {
	d, sh := st.lockAny(deviceID, setID)
	if d == nil {
		return errNoSet
	}
	defer sh.mu.Unlock()
	i := d.setIndex(st, setID)
	if i < 0 {
		return errNoSet
	}
	was := d.sets[i].status
	d.sets = slices.Delete(d.sets, i, i+1)
	if d.gone {
		st.dropDangling(sh, d)
		return errStore
	}
	if was == preauthorized && (st.version == Mender41 || len(d.sets) == 0) {
		st.remove(sh, d)
		return nil
	}
	defer st.keep(d)
	return st.derive(sh, d)
}

func (st *store) dropDangling(sh *shard, d *device) {
	sum := d.identity.sum()
	if len(d.sets) == 0 {
		sh.dangling[sum] = slices.DeleteFunc(sh.dangling[sum], func(o *device) bool { return o == d })
	}
	st.keep(d)
}

// derive sets a device's status from those of its auth sets. Like the service
// it gives up when more than one is accepted or preauthorized.
func (st *store) derive(sh *shard, d *device) error {
	var n [statusCount]int
	for _, s := range d.sets {
		n[s.status]++
	}
	if n[accepted] > 1 || n[preauthorized] > 1 {
		return errStore
	}
	derived := noauth
	for _, s := range [...]status{rejected, pending, preauthorized, accepted} {
		if n[s] > 0 {
			derived = s
		}
	}
	if derived != d.status {
		st.setStatus(sh, d, derived)
		st.tell(eventStatusChanged, d, nil)
	}
	return nil
}
