package sandbox

import (
	"slices"
	"time"
)

// authorize is a device's own request. It returns the ids of its device and its
// auth set when that is accepted, or becomes so now, and errRefused when not;
// then an unknown identity or key has become a pending one. limit is how many
// devices may be accepted, unlimited for any number.
func (st *store) authorize(id identity, key setKey, limit int) (deviceID, setID string, err error) {
	sum := id.sum()
	sh := st.shardOf(sum)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if _, left := sh.danglingSet(sum, key); left != nil {
		return "", "", errStore // the service looks for the set's device in vain
	}
	d := sh.byIdentity[sum]
	if d == nil {
		d = st.add(sum, id, noauth)
	}
	if d.decommissioning {
		return "", "", errRefused
	}
	set := d.byKey(key)
	if set != nil && set.status == preauthorized {
		if err := st.accept(sh, d, set, limit); err != nil {
			return "", "", err
		}
		st.keep(d)
	}
	if set != nil && set.status == accepted {
		return st.deviceID(d.number), st.setID(set.number), nil
	}
	if set == nil {
		st.addSet(d, key, pending)
		// Main looks at the other sets only if a pending one can change anything.
		if st.version == Mender41 || d.status == noauth || d.status == rejected {
			err = st.derive(sh, d)
		}
		st.keep(d)
	}
	if err == nil {
		err = errRefused
	}
	return "", "", err
}

// accept makes set the device's accepted one; what was accepted before is
// rejected. The shard must be locked.
func (st *store) accept(sh *shard, d *device, set *authSet, limit int) error {
	if d.status != accepted && st.full(set.tier, limit) {
		return errTooMany
	}
	for i := range d.sets {
		if d.sets[i].status == accepted {
			d.sets[i].status = rejected
		}
	}
	was := d.status
	set.status = accepted
	st.counted(sh, d, -1)
	d.status, d.tier = accepted, set.tier
	if was != accepted {
		d.updated = time.Now().UnixMicro()
	}
	st.counted(sh, d, 1)
	if was != accepted {
		if st.told != nil && !d.provisioned {
			d.provisioned = true
			st.tell(eventProvisioned, d, set)
		}
		st.tell(eventStatusChanged, d, set)
	}
	return nil
}

// full reports whether no further device of the tier may be accepted.
func (st *store) full(tier string, limit int) bool {
	return limit != unlimited && st.acceptedOf(tier) >= int64(limit)
}

// holdsToken says whether a device's token is still good: its auth set must be
// accepted.
func (st *store) holdsToken(deviceID, setID string) bool {
	d, sh := st.lock(deviceID)
	if d == nil {
		return false
	}
	defer sh.mu.Unlock()
	i := d.setIndex(st, setID)
	return i >= 0 && d.sets[i].status == accepted && !d.decommissioning
}

// putSetStatus is an operator's decision on an auth set. limit tells the limit
// of a tier.
func (st *store) putSetStatus(deviceID, setID string, to status, limit func(tier string) int) error {
	d, sh := st.lock(deviceID)
	if d == nil {
		return errNoDevice
	}
	defer sh.mu.Unlock()
	i := d.setIndex(st, setID)
	if i < 0 {
		return errNoSet
	}
	set := &d.sets[i]
	switch {
	case set.status == to && (to != rejected || st.version != Mender41):
		return nil
	case set.status == to, set.status == preauthorized, set.status == noauth:
		return errStatus
	}
	if to == accepted {
		// 4.1 counts the device even where it is accepted already.
		if st.version == Mender41 && st.full(set.tier, limit(set.tier)) {
			return errTooMany
		}
		defer st.keep(d)
		return st.accept(sh, d, set, limit(set.tier))
	}
	defer st.keep(d)
	set.status = to
	return st.derive(sh, d)
}

// setStatusOf returns an auth set's status.
func (st *store) setStatusOf(deviceID, setID string) (status, error) {
	d, sh := st.lockAny(deviceID, setID)
	if d == nil {
		return 0, errNoSet
	}
	defer sh.mu.Unlock()
	i := d.setIndex(st, setID)
	if i < 0 {
		return 0, errNoSet
	}
	return d.sets[i].status, nil
}

// lock finds a registered device by id and locks its shard; without a device
// nothing is locked.
func (st *store) lock(id string) (*device, *shard) {
	number, ok := st.number(id)
	if !ok {
		return nil, nil
	}
	sh := &st.shards[number%shardCount]
	sh.mu.Lock()
	if d := sh.at(number); d != nil {
		return d, sh
	}
	sh.mu.Unlock()
	return nil, nil
}

// lockAny is lock for a device that may be gone, its auth set being left.
func (st *store) lockAny(id, setID string) (*device, *shard) {
	if d, sh := st.lock(id); d != nil {
		return d, sh
	}
	number, ok := st.number(id)
	if !ok {
		return nil, nil
	}
	sh := &st.shards[number%shardCount]
	sh.mu.Lock()
	for _, left := range sh.dangling {
		for _, d := range left {
			if d.number == number && d.setIndex(st, setID) >= 0 {
				return d, sh
			}
		}
	}
	sh.mu.Unlock()
	return nil, nil
}

func (d *device) setIndex(st *store, setID string) int {
	return slices.IndexFunc(d.sets, func(s authSet) bool { return st.setID(s.number) == setID })
}

// get returns a device's JSON.
func (st *store) get(id string) ([]byte, error) {
	d, sh := st.lock(id)
	if d == nil {
		return nil, errNoDevice
	}
	defer sh.mu.Unlock()
	return st.appendDevice(nil, d, true), nil
}

// find returns the device with an identity.
func (st *store) find(id identity) (Device, bool) {
	st.reap(time.Now())
	sum := id.sum()
	sh := st.shardOf(sum)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	d := sh.byIdentity[sum]
	if d == nil {
		return Device{}, false
	}
	return st.export(d), true
}

// devices iterates over all devices, one shard's at a time.
func (st *store) devices(yield func(Device) bool) {
	st.reap(time.Now())
	for i := range st.shards {
		sh := &st.shards[i]
		sh.mu.Lock()
		out := make([]Device, 0, len(sh.byIdentity))
		for _, d := range sh.byPosition {
			if d != nil {
				out = append(out, st.export(d))
			}
		}
		sh.mu.Unlock()
		for _, d := range out {
			if !yield(d) {
				return
			}
		}
	}
}

func (st *store) export(d *device) Device {
	out := Device{
		ID: st.deviceID(d.number), Identity: string(d.identity),
		Status: d.status.String(), Decommissioning: d.decommissioning,
		AuthSets: make([]AuthSet, len(d.sets)), Tier: d.tier,
	}
	if d.inventory != nil {
		out.Group, out.Tags = d.inventory.Group, d.inventory.values()
	}
	for i, s := range d.sets {
		out.AuthSets[i] = AuthSet{
			ID: st.setID(s.number), SPKI: []byte(s.spki), Tier: s.tier,
			Status: s.status.String(), Time: time.UnixMicro(s.at),
		}
	}
	return out
}
