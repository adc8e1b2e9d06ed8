package sandbox

import (
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
	version      Version
	told         func(happening) // of what the webhook tells; nil for nobody
	journal      *journal        // nil without a folder; it has its own lock
	shards       [shardCount]shard
	sets         atomic.Uint64                // auth sets numbered so far
	accepted     [len(tierNames)]atomic.Int64 // devices with that status, by tier

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
	inventory       *inventory // nil until something was set there
	tier            string     // of the set that was accepted last; empty without tiers
	status          status     // not derived: force leaves it as it was
	decommissioning bool
	provisioned     bool // the webhook was told; not kept
	gone            bool
}

// setKey is what makes an auth set of an identity the same one.
type setKey struct {
	spki string // DER
	tier string // empty where the service knows no tiers
}

// authSet is a public key that stands, or asks to stand, for a device.
type authSet struct {
	number uint64
	setKey
	at     int64 // Unix microseconds
	status status
}

func (d *device) byKey(key setKey) *authSet {
	i := slices.IndexFunc(d.sets, func(s authSet) bool { return s.setKey == key })
	if i < 0 {
		return nil
	}
	return &d.sets[i]
}

func newStore(seed uint64, decommission time.Duration, version Version) *store {
	st := &store{seed: seed, decommission: decommission, version: version}
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
	st.counted(sh, d, 1)
	return d
}

// counted adds n to the counts that the device belongs to. The shard must be
// locked.
func (st *store) counted(sh *shard, d *device, n int) {
	sh.counts[d.status] += n
	if d.status == accepted {
		st.accepted[max(0, slices.Index(tierNames[:], d.tier))].Add(int64(n))
	}
}

// acceptedOf returns how many devices of a tier are accepted.
func (st *store) acceptedOf(tier string) int64 {
	return st.accepted[max(0, slices.Index(tierNames[:], tier))].Load()
}

// setStatus moves a device to another status. The shard must be locked.
func (st *store) setStatus(sh *shard, d *device, s status) {
	st.counted(sh, d, -1)
	d.status = s
	d.updated = time.Now().UnixMicro()
	st.counted(sh, d, 1)
}

func (st *store) addSet(d *device, key setKey, s status) *authSet {
	d.sets = append(d.sets, authSet{
		number: st.sets.Add(1), setKey: key, at: time.Now().UnixMicro(), status: s,
	})
	return &d.sets[len(d.sets)-1]
}

// remove unregisters a device and keeps its auth sets, if any, dangling. The
// shard must be locked.
func (st *store) remove(sh *shard, d *device) {
	sum := d.identity.sum()
	delete(sh.byIdentity, sum)
	sh.byPosition[d.number/shardCount] = nil
	st.counted(sh, d, -1)
	d.gone = true
	d.inventory = nil
	st.tell(eventDecommissioned, d, nil)
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
