package sandbox

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// status is that of a device or of an auth set. Lists are sorted by its name,
// as the service sorts them.
type status uint8

const (
	accepted status = iota
	noauth
	pending
	preauthorized
	rejected
	statusCount
)

// statusNames holds the names, sorted; it is read only.
var statusNames = [statusCount]string{"accepted", "noauth", "pending", "preauthorized", "rejected"}

func (s status) String() string { return statusNames[s] }

func parseStatus(name string) (status, bool) {
	i := slices.Index(statusNames[:], name)
	return status(max(i, 0)), i >= 0
}

// shardCount spreads the devices over that many locks.
const shardCount = 64

// store holds the devices. A device's number is its place: number modulo
// shardCount is the shard, the quotient its position there.
type store struct {
	seed         uint64 // of the ids; immutable once requests come
	decommission time.Duration
	journal      *journal // nil without a folder; it has its own lock
	shards       [shardCount]shard
	sets         atomic.Uint64 // auth sets numbered so far
	accepted     atomic.Int64  // devices with that status

	doomMu sync.Mutex
	doomed []doom       // guarded by doomMu; in order of time
	doomAt atomic.Int64 // when the first of doomed is due, Unix ns; 0: none
}

// doom is a deletion that is not finished yet.
type doom struct {
	at     int64 // Unix ns
	number uint64
}

// shard is what one lock guards.
type shard struct {
	mu         sync.Mutex
	byIdentity map[identitySum]*device
	byPosition []*device // nil where a device is gone
	counts     [statusCount]int
	// dangling holds auth sets whose device was deleted under them, which the
	// real service leaves behind when one of several preauthorized sets is
	// deleted. They still block their key for the identity.
	dangling map[identitySum][]*device
}

// device is a registered device, or, when gone, the auth sets it left dangling.
type device struct {
	number          uint64
	identity        identity
	created         int64 // Unix microseconds
	updated         int64 // Unix microseconds
	sets            []authSet
	status          status // not derived: force leaves it as it was
	decommissioning bool
	gone            bool
}

// authSet is a public key that stands, or asks to stand, for a device.
type authSet struct {
	number uint64
	spki   string // DER
	at     int64  // Unix microseconds
	status status
}

func (d *device) byKey(spki string) *authSet {
	i := slices.IndexFunc(d.sets, func(s authSet) bool { return s.spki == spki })
	if i < 0 {
		return nil
	}
	return &d.sets[i]
}

func newStore(seed uint64, decommission time.Duration) *store {
	st := &store{seed: seed, decommission: decommission}
	for i := range st.shards {
		st.shards[i].byIdentity = map[identitySum]*device{}
	}
	return st
}

// shardOf is where a device with that identity lives.
func (st *store) shardOf(sum identitySum) *shard { return &st.shards[sum[0]%shardCount] }

// at returns the device with the number, nil if there is none. Its shard must
// be locked.
func (sh *shard) at(number uint64) *device {
	position := number / shardCount
	if position >= uint64(len(sh.byPosition)) {
		return nil
	}
	return sh.byPosition[position]
}

// add registers a device. The shard must be locked.
func (st *store) add(sum identitySum, id identity, s status) *device {
	sh := st.shardOf(sum)
	now := time.Now().UnixMicro()
	d := &device{
		number:   uint64(len(sh.byPosition))*shardCount + uint64(sum[0]%shardCount),
		identity: id,
		created:  now,
		updated:  now,
		status:   s,
	}
	sh.byPosition = append(sh.byPosition, d)
	sh.byIdentity[sum] = d
	st.counted(sh, s, 1)
	return d
}

func (st *store) counted(sh *shard, s status, n int) {
	sh.counts[s] += n
	if s == accepted {
		st.accepted.Add(int64(n))
	}
}

// setStatus moves a device to another status. The shard must be locked.
func (st *store) setStatus(sh *shard, d *device, s status) {
	st.counted(sh, d.status, -1)
	d.status = s
	d.updated = time.Now().UnixMicro()
	st.counted(sh, s, 1)
}

func (st *store) addSet(d *device, spki string, s status) *authSet {
	d.sets = append(d.sets, authSet{
		number: st.sets.Add(1), spki: spki, at: time.Now().UnixMicro(), status: s,
	})
	return &d.sets[len(d.sets)-1]
}

// remove unregisters a device and keeps its auth sets, if any, dangling. The
// shard must be locked.
func (st *store) remove(sh *shard, d *device) {
	sum := d.identity.sum()
	delete(sh.byIdentity, sum)
	sh.byPosition[d.number/shardCount] = nil
	st.counted(sh, d.status, -1)
	d.gone = true
	if len(d.sets) > 0 {
		sh.strand(sum, d)
	}
	st.keep(d)
}

// strand keeps the auth sets of a device that is gone. The shard must be locked.
func (sh *shard) strand(sum identitySum, d *device) {
	if sh.dangling == nil {
		sh.dangling = map[identitySum][]*device{}
	}
	sh.dangling[sum] = append(sh.dangling[sum], d)
}

// keep writes the device's new state to the journal. The shard must be locked.
func (st *store) keep(d *device) {
	if st.journal != nil {
		st.journal.put(d)
	}
}

func (st *store) close() error {
	if st.journal == nil {
		return nil
	}
	return st.journal.close()
}

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
func (sh *shard) danglingSet(sum identitySum, spki string) (*device, *authSet) {
	for _, d := range sh.dangling[sum] {
		if set := d.byKey(spki); set != nil {
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
func (st *store) preauthorize(id identity, spki string, force, orphan bool) (location string, existing []byte, err error) {
	sum := id.sum()
	sh := st.shardOf(sum)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	d := sh.byIdentity[sum]
	switch {
	case d != nil && !force:
		return "", st.appendDevice(nil, d, false), errExists
	case d != nil:
		return st.force(sh, sum, d, spki), nil, nil
	}
	d = st.add(sum, id, preauthorized)
	defer st.keep(d)
	if orphan {
		return "", nil, errStore
	}
	if _, left := sh.danglingSet(sum, spki); left != nil {
		return "", st.appendDevice(nil, d, false), errExists
	}
	st.addSet(d, spki, preauthorized)
	return st.deviceID(d.number), nil, nil
}

// force makes the key a preauthorized auth set of an existing device, whose own
// status stays. The shard must be locked.
func (st *store) force(sh *shard, sum identitySum, d *device, spki string) (location string) {
	if owner, set := sh.danglingSet(sum, spki); set != nil {
		set.status = preauthorized
		st.keep(owner)
	} else if set := d.byKey(spki); set != nil {
		set.status = preauthorized
	} else {
		st.addSet(d, spki, preauthorized)
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

// deleteSet removes one auth set. A preauthorized one takes its device along,
// whatever other sets there are: those are left dangling, and removing them
// later fails although it works.
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
	if was == preauthorized {
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
	}
	return nil
}
