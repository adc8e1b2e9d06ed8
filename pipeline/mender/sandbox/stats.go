package sandbox

import (
	"iter"
	"sync"
	"time"
)

// Op names a call of the API in statistics and fault plans.
type Op string

// The calls.
const (
	OpLogin        Op = "login"
	OpPreauthorize Op = "preauthorize"
	OpGet          Op = "get"
	OpList         Op = "list"
	OpSearch       Op = "search"
	OpCount        Op = "count"
	OpLimit        Op = "limit"
	OpDelete       Op = "delete"          // of a device
	OpDeleteSet    Op = "delete-auth-set" // of one auth set
	OpGetStatus    Op = "get-status"
	OpPutStatus    Op = "put-status"
	OpAuthorize    Op = "authorize" // a device's auth request
	OpDevice       Op = "device"    // a device's other calls

	OpUser            Op = "user" // the token's own
	OpDeleteToken     Op = "delete-token"
	OpInventoryGet    Op = "inventory-get"    // of one device
	OpInventorySearch Op = "inventory-search" // by ids
	OpInventoryTags   Op = "inventory-tags"   // of one device
	OpInventoryGroup  Op = "inventory-group"  // of one device, or of many
	OpStatistics      Op = "statistics"
)

// Stats counts what happened since New.
type Stats struct {
	Requests    map[Op]int64    // calls that arrived
	Answers     map[int]int64   // by HTTP status; 0 counts connections cut without one
	Faults      map[Fault]int64 // injected
	InFlight    int             // calls being answered now
	MaxInFlight int             // most calls at once so far
	Devices     map[string]int  // registered now, by status
}

// Requested returns how many calls arrived.
func (s Stats) Requested() int64 {
	var n int64
	for _, c := range s.Requests {
		n += c
	}
	return n
}

// stats collects Stats.
type stats struct {
	mu  sync.Mutex
	all Stats // guarded by mu; Devices stays nil
}

func (s *stats) begin(op Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all.Requests == nil {
		s.all.Requests = map[Op]int64{}
		s.all.Answers = map[int]int64{}
		s.all.Faults = map[Fault]int64{}
	}
	s.all.Requests[op]++
	s.all.InFlight++
	s.all.MaxInFlight = max(s.all.MaxInFlight, s.all.InFlight)
}

func (s *stats) end(status int, fault Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all.InFlight--
	s.all.Answers[status]++
	if fault != FaultNone {
		s.all.Faults[fault]++
	}
}

// Stats returns the counts so far.
func (s *Sandbox) Stats() Stats {
	s.stats.mu.Lock()
	defer s.stats.mu.Unlock()
	out := s.stats.all
	out.Requests = copyCounts(out.Requests)
	out.Answers = copyCounts(out.Answers)
	out.Faults = copyCounts(out.Faults)
	out.Devices = s.store.countAll()
	return out
}

func copyCounts[K comparable](m map[K]int64) map[K]int64 {
	c := make(map[K]int64, len(m))
	for k, n := range m {
		c[k] = n
	}
	return c
}

// Device is a registered device, for tests and pages.
type Device struct {
	ID              string
	Identity        string // canonical JSON
	Status          string
	Decommissioning bool
	Tier            string // empty where the sandbox plays a service without tiers
	AuthSets        []AuthSet
	Group           string            // in the inventory
	Tags            map[string]string // in the inventory; numbers and lists as JSON
}

// AuthSet is one of a device's auth sets.
type AuthSet struct {
	ID     string
	SPKI   []byte // DER, as normalised by the server
	Tier   string
	Status string
	Time   time.Time
}

// Devices iterates over the registered devices. What changes meanwhile may or
// may not be seen.
func (s *Sandbox) Devices() iter.Seq[Device] { return s.store.devices }

// Find returns the device with the given identity, a JSON object in any form.
func (s *Sandbox) Find(identity []byte) (Device, bool) {
	id, err := parseIdentity(identity)
	if err != nil {
		return Device{}, false
	}
	return s.store.find(id)
}
