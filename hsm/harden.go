package hsm

// Hardening says what Harden achieved.
type Hardening struct {
	NoCoreDumps  bool     `json:"no_core_dumps"`
	MemoryLocked bool     `json:"memory_locked"` // what is mapped now stays out of the swap
	MemoryErased bool     `json:"memory_erased"` // built with runtime/secret
	Notes        []string `json:"notes,omitempty"`
}
